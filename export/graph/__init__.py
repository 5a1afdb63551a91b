"""What every package needs of a graph: shapes, facts, origins, hashes, and the file it is kept in."""
