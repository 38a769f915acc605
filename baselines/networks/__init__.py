"""The networks that the paper compares with, one a file, and the layers they share.

Every network has the same four attributes, which say how to call it:

``enlarged`` : bool
    True if it takes the bicubic-enlarged image, False if it takes the LR image.
``rgb`` : bool
    True if its images have three channels (R, G, B), False if they have one (Y).
``scales`` : tuple of int
    The scales it upscales by; empty where it takes the enlarged image.
``takes_scale`` : bool
    True if it is called as ``net(x, scale)``, False if it is called as ``net(x)``.

SCN and CSCN also know ``reach``: how many input pixels to each side an output pixel depends on.
"""
