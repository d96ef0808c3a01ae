"""Mistakes in a problem are told in its own words, by an error that says what to do."""

import copy
import re
from dataclasses import replace

import pytest
import torch
from torch import nn
from torch.utils.data import DataLoader, TensorDataset

import accord
from accord.bench.problem import task_specs
from accord.bench.spec import MethodSpec, Metric, TaskSpec
from accord.bench.trial import ProblemTrial
from accord.errors import AccordError, NonFiniteError, OptionError, ShapeError, UnknownNameError
from support.small_problem import Net, Once, Settings, Small


def trial(problem, method="ls"):
    return ProblemTrial(problem, MethodSpec.parse(method), 0)


def train(made):
    return [made.advance() for _ in range(made.length)], made.result()


class Broken(Small):
    """Small, with a mistake put into it by name."""

    def __init__(self, mistake, settings=Settings()):  # noqa: B008
        super().__init__(settings)
        self.mistake = mistake

    def build(self):
        training = super().build()
        net, x = self.net, torch.randn(4, 3)
        made = {
            "model alone": net,
            "no module": replace(training, model=[net]),
            "a class": replace(training, model=Net),
            "a generator": replace(training, batches=(each for each in [x])),
            "not iterable": replace(training, batches=3),
            "empty": replace(training, batches=[]),
            "once": replace(training, batches=Once()),
            "one too few": replace(
                training, batches=DataLoader(TensorDataset(x, torch.randn(4, 2)), batch_size=5, drop_last=True)
            ),
            "optimizer class": replace(training, optimizer=torch.optim.SGD),
            "lbfgs": replace(training, optimizer=torch.optim.LBFGS(net.parameters())),
            "half an optimizer": replace(training, optimizer=torch.optim.SGD(net.left.parameters(), lr=0.1)),
            "other parameters": replace(
                training, optimizer=torch.optim.SGD([*net.parameters(), nn.Parameter(torch.zeros(2))], lr=0.1)
            ),
            "scheduler made": replace(training, schedule=torch.optim.lr_scheduler.StepLR(training.optimizer, 1)),
            "schedule of nothing": replace(training, schedule=lambda optimizer: None),
            "shared elsewhere": replace(training, shared=nn.Linear(2, 2)),
            "features elsewhere": replace(training, features=nn.Linear(2, 2)),
            "features no module": replace(training, features="mix"),
        }
        self.spare = nn.Linear(1, 1)
        self.spares = [nn.Linear(1, 1)]
        return made.get(self.mistake, training)

    def losses(self, batch):
        found = super().losses(batch)
        up, down = found["up"], found["down"]
        return {
            "losses list": [up, down],
            "losses lack": {"up": up},
            "losses unknown": {**found, "side": up},
            "loss number": {"up": up.item(), "down": down},
            "loss vector": {"up": up * torch.ones(3), "down": down},
            "loss detached": {"up": up.detach(), "down": down},
            "loss nan": {"up": up * torch.nan, "down": down},
            "stray": {"up": up + self.spare(torch.ones(1, 1)).sum(), "down": down},
            "strays": {"up": up + self.spares[0](torch.ones(1, 1)).sum(), "down": down},
        }.get(self.mistake, found)

    def evaluate(self):
        found = super().evaluate()
        return {
            "evaluate tensor": torch.ones(3),
            "evaluate lacks": {"up/abs_err": 1.0},
            "evaluate unknown": {**found, "up/rmse": 1.0},
            "evaluate without task": {"abs_err": 1.0},
            "metric vector": {**found, "up/abs_err": torch.ones(3)},
            "metric text": {**found, "up/abs_err": "0.5"},
            "metric none": {**found, "up/abs_err": None},
            "metric nan": {**found, "up/abs_err": float("nan")},
        }.get(self.mistake, found)

    def validate(self):
        return super().validate() if self.mistake != "validate lacks" else {}

    def score(self, metrics):
        return {"score nan": float("nan"), "score vector": torch.ones(2)}.get(self.mistake, 1.0)

    def details(self):
        return {"details tensor": {"a": torch.ones(2)}, "details taken": {"metrics": 1}, "details list": [1]}.get(
            self.mistake, {}
        )

    def state_dict(self):
        return {"odd": object()} if self.mistake == "state" else {}

    def load_state_dict(self, state):
        pass


MISTAKES = {
    "model alone": (OptionError, "build() returned a Net; it must return accord.Training("),
    "no module": (OptionError, "model=a list; it must be a torch.nn.Module"),
    "a class": (OptionError, "model=the class Net"),
    "a generator": (OptionError, "batches=a generator, which can be gone through only once"),
    "not iterable": (OptionError, "batches=a int, which is not iterable: give a DataLoader"),
    "empty": (ShapeError, "epoch 1 had no batch"),
    "once": (ShapeError, "epoch 2 had no batch: the batches that build() returned"),
    "one too few": (ShapeError, "fewer samples than one batch of a loader with drop_last=True"),
    "optimizer class": (OptionError, "optimizer=the class SGD; give an optimizer of model.parameters()"),
    "lbfgs": (OptionError, "LBFGS"),
    "half an optimizer": (OptionError, "leaves out right.weight, right.bias, mix.0.weight and 5 more"),
    "other parameters": (OptionError, "has 1 parameters that are not part of model"),
    "scheduler made": (OptionError, "schedule=a StepLR; give a function that makes the scheduler"),
    "schedule of nothing": (OptionError, "schedule(optimizer) returned a NoneType"),
    "shared elsewhere": (OptionError, "2 shared parameters (of 2) that are not part of model"),
    "features elsewhere": (OptionError, "features=a Linear; it must be a module inside model"),
    "features no module": (OptionError, "features=a str; it must be a module inside model"),
    "losses list": (ShapeError, "losses() returned a list; return a dict with ['up', 'down']"),
    "losses lack": (ShapeError, "losses() returned ['up']: it lacks ['down']"),
    "losses unknown": (ShapeError, "has ['side'], which tasks does not name (known: ['up', 'down'])"),
    "loss number": (ShapeError, "losses()['up'] is a float; return the tensor, without .item()"),
    "loss vector": (ShapeError, "losses()['up'] has shape (3,); a loss is one number"),
    "loss detached": (ShapeError, "losses()['up'] depends on no parameter"),
    "loss nan": (NonFiniteError, "up"),
    "stray": (OptionError, "the losses depend on spare (Linear), which is not part of the model"),
    "strays": (OptionError, "the losses depend on spares (Linear)"),
    "evaluate tensor": (ShapeError, "evaluate() returned a Tensor; return a dict with ['up/abs_err', 'down/abs_err'"),
    "evaluate lacks": (ShapeError, "it lacks ['down/abs_err', 'down/hits']"),
    "evaluate unknown": (ShapeError, "it has ['up/rmse'], which tasks does not name"),
    "evaluate without task": (ShapeError, "has ['abs_err'], which tasks does not name (known: ['up/abs_err'"),
    "metric vector": (ShapeError, "evaluate()['up/abs_err'] is a Tensor of shape (3,); return one number"),
    "metric text": (ShapeError, "evaluate()['up/abs_err'] is a str; return one number"),
    "metric none": (ShapeError, "evaluate()['up/abs_err'] is a NoneType"),
    "metric nan": (NonFiniteError, "evaluate() returned up/abs_err = nan: training has diverged"),
    "validate lacks": (ShapeError, "validate() returned []: it lacks"),
    "score nan": (NonFiniteError, "score() returned nan"),
    "score vector": (ShapeError, "score() is a Tensor of shape (2,); return one number"),
    "details tensor": (ShapeError, "details() is not plain JSON data"),
    "details taken": (ShapeError, "details() has ['metrics'], which the result has already"),
    "details list": (ShapeError, "details() returned a list; return a dict"),
}


@pytest.mark.parametrize("mistake", MISTAKES)
@pytest.mark.parametrize("method", ["nash-mtl", "stl:task=up"])
def test_a_mistake_is_told_in_the_words_of_the_problem(mistake, method):
    error, words = MISTAKES[mistake]
    if method != "nash-mtl" and mistake in ("losses lack", "evaluate lacks"):
        return  # what the other tasks need is not asked for
    with pytest.raises(error, match=re.escape(words)) as told:
        train(trial(Broken(mistake, Settings(epochs=2)), method))
    assert "small" in str(told.value) or mistake == "loss nan"


def test_a_problem_without_a_mistake_trains():
    train(trial(Broken("none", Settings(epochs=2)), "nash-mtl"))


def changed(**attributes):
    problem = Small()
    for name, value in attributes.items():
        setattr(problem, name, value)
    return problem


@pytest.mark.parametrize(
    ("problem", "error", "words"),
    [
        (changed(epochs=0), OptionError, "epochs=0 must be a whole number from 1 up"),
        (changed(epochs=1.5), OptionError, "epochs=1.5 must be"),
        (changed(epochs=True), OptionError, "epochs=True must be"),
        (changed(eval_every=0), OptionError, "eval_every=0"),
        (changed(average_last=9), OptionError, "average_last=9 is more than the 8 epochs"),
        (changed(average_last=2), OptionError, "validate() chooses the epoch that counts"),
        (changed(method_lr=0.0), OptionError, "method_lr=0.0 must be a number above 0"),
        (changed(method_lr=float("nan")), OptionError, "method_lr=nan"),
        (Small(Settings(validated=False)), OptionError, "ReduceLROnPlateau follows the validation score"),
        (changed(tasks={}), OptionError, "there must be a task"),
        (changed(tasks={"a": {}}), OptionError, "every task needs a metric"),
        (changed(tasks={"a": {"m": "up"}}), OptionError, '"max"'),
        (changed(tasks={"a": ["m"]}), OptionError, "tasks['a'] is ['m']"),
        (changed(tasks=["a", "b"]), OptionError, "tasks=['a', 'b']; write"),
        (changed(tasks="ab"), OptionError, "tasks='ab'; write"),
        (changed(tasks={"a": {"m/n": "max"}}), OptionError, "among the metrics of a is 'm/n'"),
        (changed(tasks={" ": {"m": "max"}}), OptionError, "among the tasks is ' '"),
        (changed(tasks=(TaskSpec("a", (Metric("m"),)),) * 2), OptionError, "do not all have names of their own"),
        (changed(tasks=(TaskSpec("a", (Metric("m"),) * 2),)), OptionError, "do not all have names of their own"),
    ],
)
def test_settings_out_of_range_are_told(problem, error, words):
    with pytest.raises(error, match=re.escape(words)):
        train(trial(problem))


def test_methods_that_do_not_apply_are_told():
    with pytest.raises(UnknownNameError, match=r"stl:task=NAME with one of \['up', 'down'\]"):
        trial(Small(), "stl:task=sideways")
    with pytest.raises(OptionError, match="at='heads' must be parameters or features"):
        trial(Small(), "ls:at=heads")

    class Plain(Small):
        def build(self):
            return replace(super().build(), features=None)

    with pytest.raises(OptionError, match="set features= of the Training"):
        trial(Plain(), "ls:at=features")


def test_state_without_a_way_to_load_it_is_told_before_anything_is_trained():
    class Forgetful(accord.Problem):
        tasks, epochs = {"a": {"m": "max"}}, 1
        build = losses = evaluate = lambda self: None

        def state_dict(self):
            return {"x": 1}

    with pytest.raises(OptionError, match=r"state_dict\(\) but no load_state_dict\(state\)"):
        trial(Forgetful())


def test_a_class_that_lacks_a_method_cannot_be_made():
    class Half(accord.Problem):
        def build(self):
            raise NotImplementedError

    with pytest.raises(TypeError, match="evaluate"):
        Half()


def test_names_of_tasks_may_be_anything_a_table_can_show():
    names = ["3D", "5_o_Clock", "a,b", "a=b", "it's", "δ<1.25", "mIoU@50", "none", "1"]
    specs = task_specs({name: {name: "max"} for name in names})
    assert [spec.name for spec in specs] == names
    for name in names:
        assert MethodSpec.parse(str(MethodSpec("stl", {"task": name}))).options["task"] == name


def test_a_frozen_part_needs_no_optimizer_and_a_frozen_helper_is_no_stray():
    class Frozen(Small):
        def build(self):
            training = super().build()
            self.net.right.requires_grad_(False)
            self.teacher = copy.deepcopy(self.net).requires_grad_(False)
            used = [p for p in self.net.parameters() if p.requires_grad]
            return replace(training, shared=self.net.left, optimizer=torch.optim.SGD(used, lr=0.1))

        def losses(self, batch):
            teacher, _ = self.teacher(batch[0])
            return {task: loss + 0 * teacher.sum() for task, loss in super().losses(batch).items()}

    made = trial(Frozen(), "nash-mtl")
    before = made.problem.net.right.weight.clone()
    train(made)
    assert torch.equal(made.problem.net.right.weight, before)


def test_every_error_is_one_of_accords():
    assert all(issubclass(error, AccordError) for error, _ in MISTAKES.values())
