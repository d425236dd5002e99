"""This package is the page at `/`, by which operators watch and steer jobs in a browser."""
