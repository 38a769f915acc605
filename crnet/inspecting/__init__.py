"""Look inside a network at work: how it draws one image from its codes, as an HTML page."""
