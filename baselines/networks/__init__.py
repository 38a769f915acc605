"""The networks that the paper compares with, one per file, and the layers they share.

Every network has four attributes that say how to call it:

``enlarged`` : bool
    True if it takes the bicubic-enlarged image, False if it takes the LR image.
``rgb`` : bool
    True if its images have three channels (R, G, B), False if they have one (Y).
``scales`` : tuple of int
    The scales it upscales by; empty where it takes the enlarged image.
``takes_scale`` : bool
    True if it is called as ``net(x, scale)``, False if it is called as ``net(x)``.

SCN and CSCN also have ``reach``: an output pixel depends on this many input pixels to each side.

The ``state_dict`` of a network lists the kernels in the order of its layers, which is the order in
which they last run.  A layer that is shared between recursions appears once, or under several names
for one tensor.  The weights of a sum of predictions come first.
"""
