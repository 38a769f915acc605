"""Training: recipes, patches, the engine and its optimizer."""
