"""Numbers only: intervals of means, ranks, how reliable a ranking is."""
