"""Statistics of plain numbers: intervals of means, ranks, the reliability of a ranking."""
