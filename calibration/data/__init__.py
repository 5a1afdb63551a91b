"""Images and labels, from a folder or a CSV file, as the network takes them."""
