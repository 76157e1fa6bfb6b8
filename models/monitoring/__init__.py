"""How images in production differ from those that a model was judged by: what is measured of them,
histograms, distances between these, and a sequential test. Knows neither torch nor a server."""
