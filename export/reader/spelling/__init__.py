"""What files spell in ways of their own, in the one way that everything behind the reader knows."""
