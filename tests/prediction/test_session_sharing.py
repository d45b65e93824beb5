"""Sessions that share a model and a budget of embeddings, that serve one class, and that compute ahead."""

import gc
import threading
import weakref
from dataclasses import replace

import numpy as np
import pytest
import torch
from balls import SHAPE, BallNetwork, ball

from sam3d_nnunet.errors import SAM3DError
from sam3d_nnunet.network.sam3d import SAM3D
from sam3d_nnunet.prediction.embeddings import Cancelled, EmbeddingCache, stoppable, tensor_bytes
from sam3d_nnunet.prediction.session import SAM3DSession

WINDOW = 4 * 16**3  # bytes of what BallNetwork keeps of a window


def start(model, seed: int = 0, shape: tuple[int, ...] = SHAPE, **options) -> SAM3DSession:
    session = SAM3DSession("cpu", torch_n_threads=1, do_autozoom=False)
    session.use_model(model, **options)
    session.set_image(np.random.default_rng(seed).normal(100, 10, (1, *shape)), {"spacing": (1, 1, 1)})
    session.set_target_buffer(np.zeros(shape, np.uint8))
    return session


@pytest.fixture
def ball_model(session):
    """A model of two classes that marks balls around clicks."""
    return replace(session.model, networks=[BallNetwork()])


# --- one budget ---


def test_embeddings_stay_within_the_budget_of_all_sessions(ball_model):
    cache, network = EmbeddingCache(2 * WINDOW), ball_model.networks[0]
    a, b = (start(ball_model, seed, embeddings=cache) for seed in (0, 1))
    assert a.model is b.model
    a.add_point_interaction((8, 9, 10), True)
    b.add_point_interaction((8, 9, 10), True)
    assert cache.used == 2 * WINDOW and network.encoded == 2
    a.add_point_interaction((9, 9, 10), True)  # which makes b's the one that was used longest ago
    assert network.encoded == 2
    c = start(ball_model, 2, embeddings=cache)
    c.add_point_interaction((8, 9, 10), True)
    assert cache.used == 2 * WINDOW and network.encoded == 3
    a.add_point_interaction((10, 9, 10), True)
    assert network.encoded == 3
    b.add_point_interaction((9, 9, 10), True)
    assert network.encoded == 4
    for session, left in ((a, WINDOW), (c, WINDOW), (b, 0)):
        session.close()
        assert cache.used == left
    assert a.original_image_shape is None and a.target_buffer is None and a.undo() is False


def test_a_new_image_gives_the_embeddings_of_the_old_one_back(ball_model):
    cache = EmbeddingCache()
    session = start(ball_model, embeddings=cache)
    session.add_point_interaction((8, 9, 10), True)
    assert cache.used == WINDOW
    session.set_image(np.ones((1, 20, 20, 20)), {"spacing": (1, 1, 1)})
    assert cache.used == 0
    session.set_target_buffer(np.zeros((20, 20, 20)))
    session.add_point_interaction((8, 9, 10), True)
    session.use_model(ball_model, embeddings=cache)
    assert cache.used == 0 and session.original_image_shape is None


def test_closing_frees_the_image(ball_model):
    with start(ball_model) as session:
        session.add_point_interaction((8, 9, 10), True)
        image = weakref.ref(session._mask.image)
    gc.collect()
    assert image() is None
    with pytest.raises(SAM3DError, match="set_image"):
        session.add_point_interaction((8, 9, 10), True)


def test_without_a_budget_masks_are_the_same(ball_model):
    sessions = [start(ball_model, embeddings=EmbeddingCache(budget)) for budget in (0, WINDOW, 10**9)]
    for session in sessions:
        session.set_do_autozoom(True)
        session.add_point_interaction((9, 10, 11), True)
        session.add_point_interaction((16, 10, 11), True)
        session.add_point_interaction((30, 8, 11), True, class_label=2)
    assert all((s.target_buffer == sessions[0].target_buffer).all() for s in sessions)


def test_what_a_closed_image_still_computes_is_not_kept():
    cache = EmbeddingCache()
    share = cache.share()
    assert share.keep("a", torch.zeros(5)) and cache.used == 20
    assert not cache.share().keep("a", torch.zeros(2**31, device="meta"))
    share.close()
    assert not share.keep("a", torch.zeros(5)) and cache.used == 0 and share.get("a") is None


def test_many_threads_use_one_cache():
    cache, wrong = EmbeddingCache(100 * 40), []

    def work(seed: int) -> None:
        rng = np.random.default_rng(seed)
        share = cache.share()
        for step in range(1500):
            key = int(rng.integers(20))
            found = share.get(key)
            if found is not None and not (found == key + 100 * seed).all():
                wrong.append(key)
            share.keep(key, torch.full((int(rng.integers(1, 30)),), key + 100 * seed, dtype=torch.int64))
            if cache.used > cache.budget:
                wrong.append(cache.used)
            if step % 200 == 199:
                share.close()
                share = cache.share()
        share.close()

    threads = [threading.Thread(target=work, args=(seed,)) for seed in range(6)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert not wrong and cache.used == 0


def test_bytes_of_embeddings():
    whole = torch.zeros(100, dtype=torch.float32)
    assert tensor_bytes(whole) == 400
    assert tensor_bytes([whole[:10], {"again": whole.view(10, 10)}, (None, 3, "text")]) == 400
    network = SAM3D.from_preset("tiny", 1, 2, (16, 16, 16), stride=4).eval()
    embedding = network.encode(torch.randn(1, 1, 16, 16, 16))
    tensors = [*embedding.features, embedding.image_share, *([] if embedding.image is None else [embedding.image])]
    assert tensor_bytes(embedding) >= sum(tensor.nbytes for tensor in tensors)


# --- one class of several ---


@pytest.mark.parametrize("takes_maps", [False, True])
def test_one_class_as_the_only_foreground(session, takes_maps):
    model = replace(session.model, networks=[BallNetwork(takes_maps, radius=8)])
    whole, one = start(model), start(model, foreground=2)
    for s, label in ((whole, 2), (one, 1)):
        s.set_do_autozoom(True)
        s.add_point_interaction((13, 10, 11), True, class_label=label)
        s.add_point_interaction((29, 3, 5), False)  # in a grown window
    assert whole.target_buffer.any() and (one.target_buffer == (whole.target_buffer == 2)).all()
    with pytest.raises(SAM3DError, match="class 2. It knows 1"):
        one.add_point_interaction((13, 10, 11), True, class_label=2)
    while one.undo():
        pass
    assert not one.target_buffer.any()


def test_an_existing_mask_of_the_one_class(ball_model):
    session, initial = start(ball_model, foreground=2), np.zeros(SHAPE, np.uint8)
    initial[30:37, 6:13, 7:14] = 255
    session.add_initial_seg_interaction(initial)
    assert (session.target_buffer == (initial > 0)).all()
    session.add_point_interaction((9, 10, 11), True)
    assert (session.target_buffer == ((initial > 0) | ball((9, 10, 11)))).all()
    labels = ball_model.networks[0].prompts[0].labels
    assert labels.max() == 2
    session.add_initial_seg_interaction(initial, run_prediction=True)
    assert (session.target_buffer == ball((33, 9, 10))).all()


def test_other_classes_are_background(ball_model):
    """The model marks class 1 around every click of it; a session of class 2 neither shows nor follows that."""

    class Other(BallNetwork):
        def decode(self, embedding, prompts):
            return super().decode(embedding, prompts)[:, [0, 2, 1]]

    network = Other(radius=8)
    session = start(replace(ball_model, networks=[network]), foreground=2)
    session.set_do_autozoom(True)
    assert session.add_point_interaction((13, 10, 11), True) is None
    assert network.encoded == 1 and not session.target_buffer.any()


def test_a_class_that_is_not_there(ball_model):
    session = start(ball_model)
    with pytest.raises(SAM3DError, match="class 3.* 1, 2"):
        session.use_model(ball_model, foreground=3)
    assert session.original_image_shape is not None


# --- ahead of clicks ---


@pytest.mark.parametrize("spacing", [(1, 1, 1), (2, 0.8, 1.5)])
def test_a_click_where_it_was_embedded_ahead_only_decodes(ball_model, spacing):
    network = ball_model.networks[0]
    session = start(ball_model)
    session.set_image(np.random.default_rng(0).normal(100, 10, (1, *SHAPE)), {"spacing": spacing})
    session.set_target_buffer(np.zeros(SHAPE, np.uint8))
    assert session.embed_ahead((9, 10, 11)) and session.embed_ahead((9, 10, 11)) and network.encoded == 1
    session.add_point_interaction((9, 10, 11), True)
    assert network.encoded == 1
    assert session.embed_ahead() and network.encoded == 1  # around the last click
    session.reset_interactions()
    assert session.embed_ahead()
    session.add_point_interaction((9, 10, 11), True)
    assert network.encoded == 1


def test_before_any_click_it_is_the_middle_of_the_image(ball_model):
    network, session = ball_model.networks[0], start(ball_model)
    assert session.embed_ahead() and network.encoded == 1
    session.add_point_interaction([(n - 1) / 2 for n in SHAPE], True)
    assert network.encoded == 1


def test_masks_are_the_same_with_and_without(session):
    """With the real network, at random clicks."""
    with_ahead, without = (start(session.model) for _ in range(2))
    rng, some = np.random.default_rng(3), False
    for step in range(6):
        point, include = [int(rng.integers(0, n)) for n in SHAPE], bool(rng.random() < 0.7)
        with_ahead.embed_ahead()
        with_ahead.embed_ahead([int(rng.integers(0, n)) for n in SHAPE], lambda: bool(rng.random() < 0.01))
        before = with_ahead.target_buffer.copy()
        with_ahead.embed_ahead(point)
        assert (with_ahead.target_buffer == before).all()
        boxes = [s.add_point_interaction(point, include, class_label=1 + step % 2) for s in (with_ahead, without)]
        assert boxes[0] == boxes[1] and (with_ahead.target_buffer == without.target_buffer).all()
        some = some or with_ahead.target_buffer.any()
    assert some
    while with_ahead.undo():
        assert without.undo() and (with_ahead.target_buffer == without.target_buffer).all()


def test_masks_are_the_same_while_another_thread_computes_ahead(session):
    """With a budget of so little that each thread drives the embeddings of the other out."""
    both, alone = start(session.model, embeddings=EmbeddingCache(2 * 10**5)), start(session.model)
    stop, failed = threading.Event(), []

    def ahead() -> None:
        rng = np.random.default_rng(0)
        while not stop.is_set():
            try:
                both.embed_ahead([int(rng.integers(0, n)) for n in SHAPE], stop.is_set)
            except Exception as e:
                failed.append(e)

    thread = threading.Thread(target=ahead)
    thread.start()
    try:
        rng = np.random.default_rng(5)
        for _ in range(8):
            point = [int(rng.integers(0, n)) for n in SHAPE]
            for s in (both, alone):
                s.add_point_interaction(point, True, class_label=int(1 + point[0] % 2))
            assert (both.target_buffer == alone.target_buffer).all()
    finally:
        stop.set()
        thread.join()
    assert not failed and alone.target_buffer.any()


def test_it_stops_between_layers(session):
    """Neither this window nor anything of it is kept then, and the networks are as before."""
    cache = EmbeddingCache()
    session = start(session.model, embeddings=cache)
    asked = []

    def cancelled() -> bool:
        asked.append(1)
        return len(asked) >= 5

    assert session.embed_ahead(cancelled=cancelled) is False
    assert len(asked) == 5 and cache.used == 0
    assert session.embed_ahead(cancelled=lambda: True) is False
    assert not any(module._forward_pre_hooks for module in session.model.networks[0].modules())
    assert session.embed_ahead() is True and cache.used > 0


def test_only_the_thread_that_asked_is_stopped():
    network, seen = torch.nn.Linear(2, 2), []
    with stoppable(network, lambda: True):
        thread = threading.Thread(target=lambda: seen.append(network(torch.zeros(1, 2))))
        thread.start()
        thread.join()
        with pytest.raises(Cancelled):
            network(torch.zeros(1, 2))
    assert len(seen) == 1


def test_what_can_not_be_embedded_ahead(ball_model):
    assert SAM3DSession("cpu").embed_ahead() is False
    session = start(ball_model, embeddings=EmbeddingCache(WINDOW - 1))
    assert session.embed_ahead() is False  # larger than the budget
    with pytest.raises(SAM3DError, match="outside the image"):
        session.embed_ahead((99, 0, 0))


def test_time_of_a_window(session):
    assert 0 < session.time_one_window() < 60
    with pytest.raises(SAM3DError, match="before time_one_window"):
        SAM3DSession("cpu").time_one_window()
