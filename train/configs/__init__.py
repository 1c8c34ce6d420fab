"""Ready configurations of `medret train`."""
