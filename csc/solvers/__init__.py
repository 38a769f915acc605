"""The solvers: ISTA, FISTA, coordinate descent and sporco's ADMM, behind one signature."""
