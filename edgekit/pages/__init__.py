"""Pages with pictures that open without a network; they show figures and compute none."""
