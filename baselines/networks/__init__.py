"""The networks that the paper compares with, one a file, and the layers they share."""
