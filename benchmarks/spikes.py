"""Find the spikes of three neurons in a noisy recording: learn their waveforms, then their times.

The recording is synthetic, so the true waveforms and times are known.  It is an image of one row.
"""

import argparse
import time

import numpy as np
import torch
from torch import Tensor

from csc import coordinate_descent, learn_dictionary, plot, random_dictionary, synthesis, unit_norm

RATE = 24_000  # samples per second
SAMPLES = 48  # of a waveform: 2 ms
SECONDS, NOISE, SPIKES = 5, 0.06, 200  # spikes of each neuron


def waveforms() -> Tensor:
    """Return three waveforms (3, 1, 1, SAMPLES) of unit norm: a trough, and a slower peak."""
    t = torch.arange(SAMPLES) / RATE * 1000  # ms
    shapes = [(0.5, 0.1, 0.9, 0.25, 0.5), (0.6, 0.2, 1.2, 0.3, 0.3), (0.5, 0.15, 0.75, 0.12, 1.0)]
    atoms = [
        height * torch.exp(-(((t - peak) / wide) ** 2)) - torch.exp(-(((t - trough) / narrow) ** 2))
        for trough, narrow, peak, wide, height in shapes
    ]
    return unit_norm(torch.stack(atoms)[:, None, None])


def recording(D: Tensor, g: torch.Generator) -> tuple[Tensor, Tensor]:
    """Return a recording (1, 1, 1, n) with noise, and its codes: spikes of a size near 1."""
    n = SECONDS * RATE
    z = torch.zeros(1, len(D), 1, n - SAMPLES + 1)
    for m in range(len(D)):
        at = torch.randperm(z.shape[-1] // SAMPLES, generator=g)[:SPIKES] * SAMPLES
        z[0, m, 0, at] = 1 + 0.15 * torch.randn(SPIKES, generator=g)
    return synthesis(z, D) + NOISE * torch.randn(1, 1, 1, n, generator=g), z


def aligned(D: Tensor, truth: Tensor) -> list[tuple[int, int]]:
    """Return for each true waveform the learned atom most like it, and its shift in samples."""
    found = []
    for true in truth[:, 0, 0].numpy():
        scores = [np.correlate(true, atom, "full") for atom in D[:, 0, 0].numpy()]
        m, place = np.unravel_index(np.argmax(scores), np.shape(scores))
        found.append((int(m), int(place) - SAMPLES + 1))
    return found


def times(z: Tensor, least: float = 0.4) -> np.ndarray:
    """Return the spikes in the codes of one atom (n,): sums within half a millisecond ≥ `least`."""
    at, values = z.nonzero().flatten().numpy(), z[z != 0].numpy()
    spikes = []
    for cluster in np.split(np.arange(len(at)), np.flatnonzero(np.diff(at) > RATE // 2000) + 1):
        if len(cluster) and values[cluster].sum() >= least:
            spikes.append(np.average(at[cluster], weights=values[cluster]))
    return np.array(spikes)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--plot", metavar="FILE", help="write the figure of docs/signals.md")
    options = parser.parse_args()
    g = torch.Generator().manual_seed(0)
    truth = waveforms()
    x, z = recording(truth, g)
    start = random_dictionary(3, 1, (1, SAMPLES), generator=g)
    begun = time.process_time()
    pieces = x.view(-1, 1, 1, RATE // 2)
    D = learn_dictionary(pieces, start, 0.3, nonneg=True, passes=20, generator=g).dictionary
    solution = coordinate_descent(x, D, 0.3, nonneg=True)
    print(f"learned and coded {SECONDS} s in {time.process_time() - begun:.1f} s; {solution}")
    found = aligned(D, truth)
    for m, (atom, shift) in enumerate(found):
        true = z[0, m, 0].nonzero().flatten().numpy()
        spikes = times(solution.codes[0, atom, 0]) - shift
        near = np.abs(true[:, None] - spikes).min(1) <= RATE // 2000
        likeness = float(np.correlate(truth[m, 0, 0], D[atom, 0, 0], "full").max())
        print(
            f"waveform {m}: {near.sum()} of {len(true)} spikes found, "
            f"{len(spikes) - near.sum()} others, correlation with the truth {likeness:.3f}"
        )
    if options.plot:
        figure(x, z, truth, D, solution.codes, found).savefig(options.plot, dpi=110)


def figure(x: Tensor, z: Tensor, truth: Tensor, D: Tensor, codes: Tensor, found: list):  # noqa: ANN201
    """Draw the 60 ms with the most spikes, and the waveforms."""
    fig = plot.canvas(9.0, 4.2)
    grid = fig.add_gridspec(2, 4, height_ratios=[1.2, 1])
    length = RATE * 60 // 1000
    first = int(np.argmax(np.convolve((z > 0).sum((0, 1, 2)).numpy(), np.ones(length), "valid")))
    span = slice(first, first + length)
    t = np.arange(span.stop - span.start) / RATE * 1000
    signal = fig.add_subplot(grid[0, :3])
    signal.plot(t, x[0, 0, 0, span], color="0.6", linewidth=0.7, label="recording")
    signal.plot(t, synthesis(codes, D)[0, 0, 0, span], color=plot.BLACK, linewidth=1, label="D z")
    signal.set(xlim=(0, 60), ylabel="signal")
    signal.legend(loc="upper right", fontsize=8)
    spikes = fig.add_subplot(grid[1, :3], sharex=signal)
    shapes = fig.add_subplot(grid[:, 3])
    for m, (atom, shift) in enumerate(found):
        color = plot.CYCLE[m]
        true = z[0, m, 0, span].nonzero().flatten().numpy() / RATE * 1000
        own = codes[0, atom, 0, span.start + shift : span.stop + shift]
        on = own.nonzero().flatten()
        spikes.vlines(on / RATE * 1000, -m, own[on].numpy() * 0.6 - m, color=color)
        spikes.axhline(-m, color="0.85", linewidth=0.8)
        spikes.plot(true, np.full(len(true), -m - 0.12), "^", color=color, markersize=4)
        learned = np.roll(D[atom, 0, 0].numpy(), shift)
        shapes.plot(truth[m, 0, 0].numpy() - 0.9 * m, color="0.7", linewidth=3)
        shapes.plot(learned - 0.9 * m, color=color, linewidth=1.2)
    spikes.set(xlabel="time (ms)", ylabel="codes (▲ the truth)", yticks=[], ylim=(-2.4, 1))
    shapes.set(xlabel="sample", yticks=[], title="learned, on the true")
    shapes.title.set_fontsize(9)
    return fig


if __name__ == "__main__":
    main()
