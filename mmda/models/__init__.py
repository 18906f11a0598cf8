"""Reference models, built from the components of the library."""
