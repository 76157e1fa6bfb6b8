"""What a model does in production, in numbers: what is measured of images and answers, how they
differ from those it was judged by, and two versions compared. Constant in memory, summed over
processes; sequential tests, so that one may look at any time. Knows neither torch nor a server."""
