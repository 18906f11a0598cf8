"""Reference models, assembled from the parts of the library."""
