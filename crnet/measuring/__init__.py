"""PSNR and SSIM, the protocols of the paper's tables, and the published numbers."""
