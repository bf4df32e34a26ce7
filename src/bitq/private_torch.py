"""Every name of PyTorch that its documentation does not promise, in one place: what a new version may take away."""
