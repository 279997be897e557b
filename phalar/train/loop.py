"""The training, from top to bottom: batch, augmentation, embeddings, loss, step, measure, keep."""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path

import numpy as np
import torch
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from phalar.model import ModelConfig, Phalar, build_model
from phalar.params import Params, Paths, Train
from phalar.train import distributed
from phalar.train.augment import Chance, augment
from phalar.train.batches import Batch, Batches
from phalar.train.checkpoint import Checkpoints
from phalar.train.compile import compile_backbone
from phalar.train.distributed import World
from phalar.train.dropout import SharedDropout
from phalar.train.export import Record, Recorder, export
from phalar.train.loss import accuracy, contrastive_loss
from phalar.train.meter import Meter
from phalar.train.optim import Average, build_optimisers, rate_factor, set_rates
from phalar.train.shards import PairIndex
from phalar.train.state import State
from phalar.train.validate import Validation

logger = logging.getLogger(__name__)

# What is drawn: the streams of chance of a training, each by (seed, stream, ...).
WEIGHTS, AUGMENTATION, DROPOUT = 0, 1, 2


@dataclass(frozen=True, slots=True)
class Training:
    """What a training works with from its first step to its last, in one process."""

    settings: Train
    world: World
    state: State
    dropout: SharedDropout
    mixed: bool
    """Whether the network computes in bfloat16."""
    batches: Iterator[Batch]
    validation: Validation
    meter: Meter


def train(
    params: Params, paths: Paths, *, params_path: Path, stop: Callable[[], bool], resume: bool
) -> bool:
    """Train a model and export it; a training that was interrupted goes on where it was.

    Every process of a training calls this. What is drawn depends on the seed and the step alone:
    not on the number of processes, nor on when a training was interrupted.

    Parameters
    ----------
    params, paths : Params, Paths
        What to train, on which pairs, and where to put it.
    params_path : Path
        The file that `params` come from.
    stop : callable
        Asked after each step whether to save and stop.
    resume : bool
        Only go on with an interrupted training; without one of these inputs it is refused.

    Returns
    -------
    bool
        Whether the training is done; else `stop` said to stop, and a checkpoint was saved.

    Raises
    ------
    ValueError
        The data do not suit the parameters, or are damaged; or there is nothing to resume.
    FloatingPointError
        The loss or the gradient is not finite.
    OSError
        A checkpoint or an output cannot be written.
    """
    settings = params.train
    with distributed.join(on_cpu=settings.devices == "cpu") as world:
        record = Record.of(params, paths, params_path=params_path)
        folder = paths.train / "checkpoints"
        checkpoints = Checkpoints(folder, record.inputs, writes=world.is_first, resume=resume)
        state = _fresh_state(settings, world)
        if (found := distributed.collect(checkpoints.newest())[0]) is not None:
            state.restore(found)
            logger.info("goes on at step %d of %d", state.step, settings.steps)
        training = _set_up(settings, paths, state, world)
        with record.opened(state, writes=world.is_first) as recorder:
            if not _run(training, recorder, checkpoints, stop=stop):
                logger.info("stopped at step %d; a checkpoint was saved", state.step)
                return False
        # Where MLflow failed to make the run at first, closing it was the last chance.
        state.run_id = recorder.run_id
        if world.is_first:
            export(state, record, training.validation, world)
        checkpoints.remove()
    return True


def _run(
    training: Training, recorder: Recorder, checkpoints: Checkpoints, *, stop: Callable[[], bool]
) -> bool:
    """Step, tell, measure and keep until all is done; `False` where `stop` came first."""
    settings, state, meter = training.settings, training.state, training.meter
    saved_s = time.monotonic()
    while not state.is_over(settings):
        with meter.waiting():
            batch = next(training.batches)
        _learn(training, batch.to(training.world.device))

        is_last = state.step == settings.steps
        if is_last or state.step % settings.log_every_steps == 0:
            row = meter.row(state)
            state.history.append({"step": state.step, **row})
            recorder.log(row, step=state.step)
            logger.info("%s", meter.line(row, step=state.step))
        validated = is_last or state.step % settings.validate_.every_steps == 0
        if validated:
            with meter.paused():
                meter.settle(state)
                found = _validate(training)
            recorder.log(found, step=state.step)
        stopping = distributed.any_of(stop())
        due = time.monotonic() - saved_s >= settings.checkpoint_every_s
        if stopping or due or validated:
            with meter.paused():
                meter.settle(state)
                state.check_finite()
                state.run_id = recorder.run_id
                state.seconds += time.monotonic() - saved_s
                saved_s = time.monotonic()
                checkpoints.save(state.snapshot())
        if stopping:
            break
    return state.is_over(settings)


def _learn(training: Training, batch: Batch) -> None:
    """Make one step: scores of the global batch, loss, gradients, and what the optimisers do."""
    settings, state, world = training.settings, training.state, training.world
    model = state.model
    with torch.autocast(world.device.type, torch.bfloat16, enabled=training.mixed):
        score_BB, song_B = _scores(model, training.dropout, batch, settings, world, step=state.step)
        loss = contrastive_loss(
            score_BB,
            song_B,
            direction=settings.loss.direction,
            target_weight=settings.loss.target_weight,
        )
    torch.autograd.backward(loss)
    distributed.average_gradients(model.parameters())
    training.meter.add(loss, accuracy(score_BB, song_B), _gradient_norm(model))

    factor = rate_factor(state.step, steps=settings.steps, config=settings.optimiser)
    set_rates(state.optimisers, factor)
    for optimiser in state.optimisers:
        optimiser.step()
        optimiser.zero_grad()
    state.average.update(state.step)
    state.step += 1


def _set_up(settings: Train, paths: Paths, state: State, world: World) -> Training:
    """Open the data, and make the model ready to compute from the step that its state is at."""
    by_source = settings.batch_from == "one_source"
    index = PairIndex.read(paths.render, "train", by_source=by_source)
    validation = Validation.read(paths.render, settings.validate_)
    pin = world.device.type == "cuda"
    batches = iter(Batches(index, settings, world.rank, world.size, state.step, pin))
    mixed = _is_mixed(settings, world)
    model = state.model.train()
    dropout = SharedDropout(model)
    backbone = compile_backbone(model, dropout, settings, world, mixed=mixed)
    _announce(settings, world, backbone, mixed=mixed)
    meter = Meter(settings, world)
    return Training(settings, world, state, dropout, mixed, batches, validation, meter)


def _fresh_state(settings: Train, world: World) -> State:
    """Draw initial weights and set up the optimisers."""
    generator = torch.Generator().manual_seed(_seed(settings.seed, WEIGHTS))
    model = build_model(ModelConfig(settings.variant, settings.dropout), generator=generator)
    if settings.identity_start is not None:
        model.similarity.start_at_identity(settings.identity_start)
    if any(isinstance(module, nn.BatchNorm1d | nn.BatchNorm2d) for module in model.modules()):
        if settings.recompute_clips is not None:
            raise ValueError(
                f"train.recompute_clips: variant {settings.variant} normalises over the batch and "
                f"needs it whole; set it to null"
            )
        distributed.share_batch_statistics(model, world)
    model.to(world.device)
    if settings.precision == "float64":
        model.double()
        model.front_end.float()
    return State(
        model=model,
        optimisers=build_optimisers(model, model.similarity, settings.optimiser),
        average=Average(model, settings.optimiser.ema_decay),
        started=datetime.now(UTC).isoformat(timespec="seconds"),
    )


def _scores(
    model: Phalar,
    dropout: SharedDropout,
    batch: Batch,
    settings: Train,
    world: World,
    *,
    step: int,
) -> tuple[Tensor, Tensor]:
    """Score all anchors of the global batch with all its positives: (B, B), and songs (B,)."""
    rows = slice(world.rank * len(batch.wave), (world.rank + 1) * len(batch.wave))
    generator = torch.Generator(world.device)
    generator.manual_seed(_seed(settings.seed, AUGMENTATION, step))
    chance = Chance(generator, settings.batch_pairs, rows)
    wave_B2N = augment(batch.wave, settings.augment, chance=chance)
    feature = model.features(wave_B2N.flatten(0, 1))
    feature = feature.to(next(model.parameters()).dtype)
    torch.manual_seed(_seed(settings.seed, DROPOUT, step, 0))
    dropout.draw(2 * settings.batch_pairs, feature)
    # For what draws by itself, COCOLA's backbone.
    torch.manual_seed(_seed(settings.seed, DROPOUT, step, world.rank))

    def encode(first: int, part: Tensor) -> Tensor:
        dropout.hold(slice(first, first + len(part)))
        return model.encode(part)

    first = world.rank * len(feature)
    if settings.recompute_clips is None:
        z_CRD = encode(first, feature)
    else:
        # Clips meet only in the loss, so each part's activations can be dropped and made anew.
        parts = []
        for part in torch.split(feature, settings.recompute_clips):
            parts.append(checkpoint(encode, first, part, use_reentrant=False))
            first += len(part)
        z_CRD = torch.cat(parts)
    z_B2RD = distributed.gather(z_CRD.reshape(-1, 2, *z_CRD.shape[1:]))
    anchor_BRD, positive_BRD = z_B2RD.unbind(1)
    score_BB = model.score_matrix(anchor_BRD, positive_BRD, commutative=False)
    return score_BB, distributed.gather(batch.song)


def _validate(training: Training) -> dict[str, float]:
    """Measure accuracy, keep the weights if it is the best, and give it as the record has it."""
    state, world = training.state, training.world
    with (
        state.average.applied(),
        torch.autocast(world.device.type, torch.bfloat16, enabled=training.mixed),
    ):
        found = training.validation.accuracies(state.model, world)
        state.validations.append({"step": state.step, **found})
        state.keep_if_best()
    told = ", ".join(f"{source} {100 * value:.1f} %" for source, value in found.items())
    candidates = training.validation.trials[0].candidates
    logger.info("validation at step %d, K = %d: %s", state.step, candidates, told)
    return {f"validation/{source}_percent": 100 * value for source, value in found.items()}


def _gradient_norm(model: Phalar) -> Tensor:
    gradients = [parameter.grad for parameter in model.parameters() if parameter.grad is not None]
    return torch.nn.utils.get_total_norm(gradients)


def _is_mixed(settings: Train, world: World) -> bool:
    """Whether the network computes in bfloat16."""
    if settings.precision == "auto":
        return world.device.type == "cuda" and torch.cuda.is_bf16_supported()
    return settings.precision == "bfloat16"


def _announce(settings: Train, world: World, backbone: str, *, mixed: bool) -> None:
    """Say what computes, and how."""
    name = "CPU"
    if world.device.type == "cuda":
        name = torch.cuda.get_device_name(world.device)
    precision = "bfloat16" if mixed else settings.precision.replace("auto", "float32")
    logger.info(
        "%s: %d steps of %d pairs on %d x %s, %d threads, %s, backbone: %s",
        settings.variant,
        settings.steps,
        settings.batch_pairs,
        world.size,
        name,
        torch.get_num_threads(),
        precision,
        backbone,
    )


def _seed(*parts: int) -> int:
    return int(np.random.SeedSequence(parts).generate_state(1, np.uint64)[0] >> np.uint64(1))
