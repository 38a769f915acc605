import inspect
import pickle

import numpy as np
import pytest
import torch
from sklearn.base import clone
from sklearn.decomposition import MiniBatchDictionaryLearning
from sklearn.model_selection import GridSearchCV
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import FunctionTransformer
from sklearn.utils import estimator_checks
from sklearn.utils.validation import check_is_fitted

from csc import (
    ConvolutionalSparseCoding,
    coordinate_descent,
    learn_dictionary,
    objective,
    random_dictionary,
    synthesis,
)
from csc.arrays import Array

# scikit-learn's checks that ask nothing of X.  The others give it a matrix (samples, features),
# which holds no images: check_estimator leaves them out because of the tag two_d_array=False.
CHECKS = (
    "check_estimator_cloneable",
    "check_estimator_repr",
    "check_estimator_tags_renamed",
    "check_get_params_invariance",
    "check_mixin_order",
    "check_no_attributes_set_in_init",
    "check_parameters_default_constructible",
    "check_set_params",
    "check_valid_tag_types",
)


def images(n: int = 4, side: int = 16) -> Array:
    return np.random.default_rng(0).standard_normal((n, side, side))


def model(passes: int = 2) -> ConvolutionalSparseCoding:
    return ConvolutionalSparseCoding(4, 3, 0.3, passes=passes, random_state=0)


@pytest.mark.parametrize("name", CHECKS)
def test_scikit_learn_s_own_check_holds(name: str) -> None:
    check = getattr(estimator_checks, name)
    estimator = model()
    check(
        "ConvolutionalSparseCoding", *[estimator] * (len(inspect.signature(check).parameters) - 1)
    )


def test_check_estimator_finds_nothing() -> None:
    with pytest.warns(UserWarning, match="Can't test estimator"):
        results = estimator_checks.check_estimator(model(), on_fail=None)
    statuses = {result["check_name"]: result["status"] for result in results}
    assert set(statuses.values()) == {"passed"}


def test_it_has_the_methods_of_scikit_learn_s_dictionary_learning() -> None:
    for name in ("fit", "partial_fit", "transform", "fit_transform", "inverse_transform"):
        theirs = inspect.signature(getattr(MiniBatchDictionaryLearning, name)).parameters
        assert len(inspect.signature(getattr(model(), name)).parameters) <= len(theirs)
        assert callable(getattr(model(), name))
    assert {"fit", "transform", "get_params", "set_params"} <= set(dir(model()))


def test_fit_is_learn_dictionary_and_transform_coordinate_descent() -> None:
    X = images()
    fitted = model().fit(X)
    x, g = torch.from_numpy(X)[:, None], torch.Generator().manual_seed(0)
    D = random_dictionary(4, 1, 3, generator=g, dtype=torch.float64)
    learned = learn_dictionary(x, D, 0.3, passes=2, generator=g)
    assert torch.equal(fitted.dictionary_, learned.dictionary)
    np.testing.assert_array_equal(fitted.objective_, learned.objective.numpy())
    assert fitted.n_iter_ == 8
    codes = torch.cat(
        [coordinate_descent(i[None], learned.dictionary, 0.3, tol=1e-2).codes for i in x]
    )
    np.testing.assert_array_equal(fitted.transform(X), codes.numpy())
    np.testing.assert_array_equal(model().fit_transform(X), codes.numpy())
    back = fitted.inverse_transform(codes.numpy())
    np.testing.assert_array_equal(back, synthesis(codes, learned.dictionary)[:, 0].numpy())
    mean = float(objective(x, learned.dictionary, codes, 0.3).mean())
    assert fitted.score(X) == pytest.approx(-mean)


def test_partial_fit_learns_on() -> None:
    """Two pieces are one stream; fit begins anew."""
    X = images(4)
    pieces = model().partial_fit(X[:2]).partial_fit(X[2:])
    g = torch.Generator().manual_seed(0)
    D = random_dictionary(4, 1, 3, generator=g, dtype=torch.float64)
    first = learn_dictionary(torch.from_numpy(X[:2])[:, None], D, 0.3, passes=1, generator=g)
    rest = torch.from_numpy(X[2:])[:, None]
    whole = learn_dictionary(rest, D, 0.3, passes=1, after=first.state)
    assert torch.equal(pieces.dictionary_, whole.dictionary)
    assert pieces.n_iter_ == 4
    assert torch.equal(pieces.fit(X).dictionary_, model().fit(X).dictionary_)


@pytest.mark.parametrize("dtype", [np.float32, np.float64, np.uint8])
def test_layouts_and_types(dtype: type) -> None:
    """Arrays give arrays, tensors tensors, lists lists, with the same numbers."""
    X = (40 * images(2) + 128).clip(0, 255).astype(dtype)
    scaled = X.astype(np.float32) / 255 if dtype is np.uint8 else X
    fitted = model().fit(X)
    Z = fitted.transform(X)
    assert Z.dtype == scaled.dtype
    tensors = torch.from_numpy(scaled)[:, None]
    other = model().fit(tensors)
    torch.testing.assert_close(other.transform(tensors), torch.from_numpy(Z))
    listed = fitted.transform(list(X))
    assert isinstance(listed, list)
    np.testing.assert_array_equal(np.stack(listed), Z)
    assert fitted.inverse_transform(Z).shape == X.shape
    assert fitted.inverse_transform(torch.from_numpy(Z)).shape == (2, 1, 16, 16)


def test_colour_and_images_of_several_sizes() -> None:
    X = [np.random.default_rng(i).random((12 + i, 10, 3)) for i in range(2)]
    fitted = ConvolutionalSparseCoding(4, 2, 0.1, passes=1, random_state=0).fit(X)
    Z = fitted.transform(X)
    assert [z.shape for z in Z] == [(4, 11, 9), (4, 12, 9)]
    assert [x.shape for x in fitted.inverse_transform(Z)] == [x.shape for x in X]
    assert fitted.components_.shape == (4, 3, 2, 2)


def test_it_is_pickled_and_cloned() -> None:
    X = images(2)
    fitted = model().fit(X)
    copied = pickle.loads(pickle.dumps(fitted))  # noqa: S301
    np.testing.assert_array_equal(copied.transform(X), fitted.transform(X))
    check_is_fitted(copied)
    fresh = clone(fitted)
    assert fresh.get_params() == fitted.get_params()
    with pytest.raises(ValueError, match="call fit first"):
        fresh.transform(X)


def test_it_works_in_a_pipeline_and_a_grid_search() -> None:
    X = images(4)
    flat = FunctionTransformer(lambda z: z.reshape(len(z), -1))
    codes = make_pipeline(model(), flat).fit_transform(X)
    assert codes.shape == (4, 4 * 14 * 14)
    search = GridSearchCV(model(1), {"n_atoms": [1, 4]}, cv=2).fit(X)
    assert search.best_params_ == {"n_atoms": 4}


def test_the_seed_decides() -> None:
    X = images(2)
    first = model(1).fit(X).components_
    assert np.array_equal(first, model(1).fit(X).components_)
    generator = torch.Generator().manual_seed(0)
    assert np.array_equal(first, model(1).set_params(random_state=generator).fit(X).components_)
    for state in (1, np.random.RandomState(0)):
        assert not np.array_equal(first, model(1).set_params(random_state=state).fit(X).components_)


def test_verbose_writes_to_standard_error(capsys: pytest.CaptureFixture[str]) -> None:
    model(1).set_params(verbose=True).fit(images(2))
    captured = capsys.readouterr()
    assert not captured.out
    assert captured.err.count("objective") == 2


def test_bad_arguments_are_refused_by_fit() -> None:
    X = images(2)
    with pytest.raises(ValueError, match="n_atoms must be ≥ 1"):
        model().set_params(n_atoms=0).fit(X)
    with pytest.raises(ValueError, match="unknown parameter 'atoms'"):
        model().set_params(atoms=3)
    with pytest.raises(ValueError, match=r"\(N, H, W\)"):
        model().fit(X[0])
    with pytest.raises(TypeError, match="random_state"):
        model().set_params(random_state="0").fit(X)
    with pytest.raises(ValueError, match="no images"):
        model().fit([])
