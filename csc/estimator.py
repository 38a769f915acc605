"""Dictionary learning and sparse coding as a scikit-learn estimator.

It follows :class:`sklearn.decomposition.MiniBatchDictionaryLearning`: parameters in the
constructor, `fit`, `partial_fit`, `transform`, `inverse_transform`, learned attributes with a
trailing underscore.  A sample is an image, so X has three axes or more.  The estimator itself does
not need scikit-learn.
"""

import inspect
import sys
from collections.abc import Sequence
from numbers import Integral
from typing import Any, TypeAlias

import numpy as np
import torch
from torch import Tensor

from csc.arrays import Array, Image, like, to_tensors
from csc.checks import Weight, check_integer
from csc.conv import synthesis
from csc.dictionary import unit_norm
from csc.learning.learn import LearnedDictionary, LearningStep, learn_dictionary
from csc.learning.state import LearningState
from csc.solution import Solution
from csc.solvers.cd import coordinate_descent

Images: TypeAlias = Tensor | Array | Sequence[Image]


class ConvolutionalSparseCoding:
    """Atoms learned from images, and the codes of images with them.

    Parameters
    ----------
    n_atoms : int
        M, number of atoms.
    atom_shape : int or (int, int)
        Height and width of an atom.
    lam : float or Tensor, shape () or (M,)
        Weight λ ≥ 0.
    nonneg : bool
        Require z ≥ 0.
    passes : int
        Number of times `fit` codes every image.
    batch_size : int
        Images per step.
    tol : float
        Relative gap at which the codes of `transform` count as optimal.
    dict_init : Tensor or array, shape (M, C, kh, kw), optional
        Atoms to start from; random by default.
    random_state : int, numpy.random.RandomState or torch.Generator, optional
        Source of randomness; torch's global generator by default.
    verbose : bool
        Write a line to standard error after every step.

    Attributes
    ----------
    dictionary_ : Tensor, shape (M, C, kh, kw)
        The atoms; `components_` is the same as an array.
    objective_ : array, shape (steps,)
        Mean of P(z) over the images of each step.
    n_iter_ : int
        Number of steps.

    Notes
    -----
    X is an array (N, H, W) or (N, H, W, C), a tensor (N, C, H, W), or a list of images of
    different sizes; uint8 becomes float32 in [0, 1].  Codes of arrays are arrays, of tensors
    tensors, of lists lists.

    Examples
    --------
    >>> import numpy as np
    >>> X = np.random.default_rng(0).random((3, 16, 16))
    >>> model = ConvolutionalSparseCoding(n_atoms=4, atom_shape=3, lam=0.1, random_state=0).fit(X)
    >>> Z = model.transform(X)
    >>> Z.shape, model.inverse_transform(Z).shape
    ((3, 4, 14, 14), (3, 16, 16))
    """

    def __init__(
        self,
        n_atoms: int = 64,
        atom_shape: int | tuple[int, int] = 8,
        lam: Weight = 0.1,
        *,
        nonneg: bool = False,
        passes: int = 4,
        batch_size: int = 1,
        tol: float = 1e-2,
        dict_init: Tensor | Array | None = None,
        random_state: "int | np.random.RandomState | torch.Generator | None" = None,
        verbose: bool = False,
    ) -> None:
        self.n_atoms = n_atoms
        self.atom_shape = atom_shape
        self.lam = lam
        self.nonneg = nonneg
        self.passes = passes
        self.batch_size = batch_size
        self.tol = tol
        self.dict_init = dict_init
        self.random_state = random_state
        self.verbose = verbose

    def fit(self, X: Images, y: object = None) -> "ConvolutionalSparseCoding":
        """Learn the atoms anew; y is ignored.

        Raises
        ------
        ValueError, TypeError
            As :func:`csc.learn_dictionary`; or if the images have another layout.
        """
        return self._learn(X, passes=self.passes, after=None)

    def partial_fit(self, X: Images, y: object = None) -> "ConvolutionalSparseCoding":
        """Learn on from more images, each coded once; y is ignored.

        Raises
        ------
        ValueError, TypeError
            As :meth:`fit`; or if λ, `nonneg`, the channels or the dtype changed.
        """
        return self._learn(X, passes=1, after=self.state_ if self._fitted else None)

    def transform(self, X: Images) -> Any:
        """Return the codes of images, (N, M, H-kh+1, W-kw+1); a list for a list.

        Raises
        ------
        ValueError, TypeError
            As :func:`csc.coordinate_descent`; or if the estimator is not fitted.
        """
        codes = [solution.codes for solution in self._solve(X)]
        if isinstance(X, Tensor):
            return torch.cat(codes)
        arrays = [
            z[0] if isinstance(x, Tensor) else z[0].numpy() for x, z in zip(X, codes, strict=True)
        ]
        return np.stack(arrays) if isinstance(X, np.ndarray) else arrays

    def fit_transform(self, X: Images, y: object = None) -> Any:
        """Learn the atoms and return the codes of the same images."""
        return self.fit(X, y).transform(X)

    def inverse_transform(self, Z: Tensor | Array | Sequence[Tensor | Array]) -> Any:
        """Return the images D z of codes, in the layout of X.

        Raises
        ------
        ValueError, TypeError
            If the codes do not fit the atoms, or the estimator is not fitted.
        """
        D = self._atoms()
        if isinstance(Z, Tensor):
            return synthesis(Z, D.to(Z))
        images = []
        for z in Z:
            codes = torch.as_tensor(z)[None]
            image = synthesis(codes, D.to(codes))
            layout = (
                image if isinstance(z, Tensor) else np.empty((0,) * (2 if len(D[0]) == 1 else 3))
            )
            images.append(like(image, layout))
        return np.stack(images) if isinstance(Z, np.ndarray) else images

    def score(self, X: Images, y: object = None) -> float:
        """Return minus the mean objective P(z) of the images; y is ignored.

        Compare models of the same λ only.
        """
        return -float(torch.cat([s.objective for s in self._solve(X)]).mean())

    @property
    def components_(self) -> Array:
        """The atoms as an array (M, C, kh, kw)."""
        array: Array = self.dictionary_.cpu().numpy()
        return array

    def get_params(self, deep: bool = True) -> dict[str, Any]:
        """Return the parameters of the constructor by name."""
        return {name: getattr(self, name) for name in inspect.signature(type(self)).parameters}

    def set_params(self, **params: Any) -> "ConvolutionalSparseCoding":
        """Set parameters by name.

        Raises
        ------
        ValueError
            If a name is unknown.
        """
        names = self.get_params()
        for name, value in params.items():
            if name not in names:
                raise ValueError(f"unknown parameter {name!r}; use one of {', '.join(names)}")
            setattr(self, name, value)
        return self

    def __repr__(self) -> str:
        """Return the parameters."""
        values = ", ".join(f"{name}={value!r}" for name, value in self.get_params().items())
        return f"{type(self).__name__}({values})"

    def __sklearn_tags__(self) -> Any:
        """Tell scikit-learn what X is."""
        from sklearn import utils  # type: ignore[import-untyped]

        return utils.Tags(
            estimator_type=None,
            target_tags=utils.TargetTags(required=False),
            transformer_tags=utils.TransformerTags(preserves_dtype=["float64", "float32"]),
            input_tags=utils.InputTags(two_d_array=False, three_d_array=True),
        )

    def __sklearn_is_fitted__(self) -> bool:
        """Tell scikit-learn whether there are atoms."""
        return self._fitted

    @property
    def _fitted(self) -> bool:
        return hasattr(self, "state_")

    def _atoms(self) -> Tensor:
        if not self._fitted:
            raise ValueError("this estimator has no atoms yet; call fit first")
        return self.dictionary_

    def _learn(
        self, X: Images, *, passes: int, after: LearningState | None
    ) -> "ConvolutionalSparseCoding":
        images, generator = to_tensors(X), _generator(self.random_state)
        learned: LearnedDictionary = learn_dictionary(
            images,
            self._start(images, generator),
            self.lam,
            nonneg=self.nonneg,
            passes=passes,
            batch=self.batch_size,
            generator=generator,
            after=after,
            on_step=_tell if self.verbose else None,
        )
        self.dictionary_, self.state_ = learned.dictionary, learned.state
        self.objective_ = learned.objective.numpy()
        self.n_iter_ = len(self.objective_)
        return self

    def _start(self, images: list[Tensor], generator: torch.Generator | None) -> Tensor:
        if not images:
            raise ValueError("X has no images")
        if self.dict_init is not None:
            return torch.as_tensor(self.dict_init).to(images[0])
        check_integer(self.n_atoms, "n_atoms", least=1)
        sides = self.atom_shape
        kh, kw = sides if isinstance(sides, tuple) else (sides, sides)
        shape = (self.n_atoms, images[0].shape[1], kh, kw)
        return unit_norm(torch.randn(shape, generator=generator, dtype=images[0].dtype))

    def _solve(self, X: Images) -> list[Solution]:
        D = self._atoms()
        return [
            coordinate_descent(x, D.to(x), self.lam, nonneg=self.nonneg, tol=self.tol)
            for x in to_tensors(X)
        ]


def _generator(random_state: object) -> torch.Generator | None:
    if random_state is None or isinstance(random_state, torch.Generator):
        return random_state
    if isinstance(random_state, np.random.RandomState):
        return torch.Generator().manual_seed(int(random_state.randint(2**31 - 1)))
    if isinstance(random_state, Integral):
        return torch.Generator().manual_seed(int(random_state))
    raise TypeError(
        "random_state must be an integer, a numpy.random.RandomState or a torch.Generator, "
        f"got {type(random_state).__name__}"
    )


def _tell(step: LearningStep) -> None:
    sys.stderr.write(
        f"step {step.step}: objective {step.objective:.4g}, density {step.density:.2%}\n"
    )
