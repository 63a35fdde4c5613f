"""From theta to the deviance, its gradient and curvature, and to the minimum."""
