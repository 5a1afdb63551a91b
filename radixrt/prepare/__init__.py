"""The original: the network, its images, its graph, and the answers that engines are held against."""
