"""Super-resolution by sparse coding: ScSR and CSC-SR, and how they are trained."""
