"""Numbers only: intervals of means, ranks, how far rankings agree."""
