"""One multi-task network, trained by a loop written out, and inside each framework."""

import contextlib
import os
import warnings

import accelerate
import pytorch_lightning as pl
import torch
import transformers
from accelerate import Accelerator
from torch import nn

import accord
from accord.integrations.accelerate import backward
from accord.integrations.lightning import MultiTaskModule
from accord.integrations.transformers import MultiTaskTrainer
from accord.jacobian import Local

TASKS = ["size", "sign", "age"]
STEPS, BATCH = 12, 8


class Net(nn.Module):
    """A trunk and a head a task, the same at each making."""

    def __init__(self):
        super().__init__()
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(0)
            self.trunk = nn.Sequential(nn.Linear(5, 16), nn.Tanh(), nn.Linear(16, 7), nn.Tanh())
            self.heads = nn.ModuleDict({task: nn.Linear(7, 1) for task in TASKS})

    def forward(self, x, y):
        """Losses by task, of different sizes and above zero."""
        z = self.trunk(x)
        errors = [(head(z)[:, 0].float() - y[:, k]).square().mean() for k, head in enumerate(self.heads.values())]
        return {task: 2.5 ** (k - 1) * error + 0.05 for k, (task, error) in enumerate(zip(TASKS, errors, strict=True))}


class Samples(torch.utils.data.Dataset):
    """The samples, by name."""

    def __init__(self, steps=STEPS, batch=BATCH):
        generator = torch.Generator().manual_seed(1)
        self.x = torch.randn(steps * batch, 5, generator=generator)
        self.y = torch.randn(steps * batch, len(TASKS), generator=generator)

    def __len__(self):
        return len(self.x)

    def __getitem__(self, i):
        return {"x": self.x[i], "y": self.y[i]}


def loader(batch=BATCH, steps=STEPS):
    return torch.utils.data.DataLoader(Samples(steps), batch_size=batch)


def optimizer_of(parameters):
    return torch.optim.SGD(parameters, lr=0.1)


def flat(module):
    return torch.cat([p.detach().flatten().double() for p in module.parameters()])


def apart(a, b):
    """The largest difference of parameters, over the largest parameter."""
    a, b = flat(a), flat(b)
    return float((a - b).abs().max() / b.abs().max())


def options_of(balancer, net, batch):
    """What some methods need beside the losses."""
    return {"second": net(batch["x"].flip(0), batch["y"])} if balancer.needs == "cross-gramian" else {}


def raw(spec, *, accumulate=1, scaler=None, cast=None, steps=STEPS, after=False):
    """The loop written out: n micro-batches, each balanced, whose gradients are then divided by n."""
    net, balancer = Net(), accord.make(spec, TASKS)
    optimizer = optimizer_of([*net.parameters(), *balancer.parameters()])
    for i, batch in enumerate(loader(steps=steps)):
        context = torch.autocast("cpu", dtype=cast) if cast else contextlib.nullcontext()
        with context:
            losses, options = net(**batch), options_of(balancer, net, batch)
        balancer.backward(losses, net.trunk, scaler=scaler, **options)
        if (i + 1) % accumulate == 0:
            for parameter in [*net.parameters(), *balancer.parameters()]:
                parameter.grad /= accumulate
            if scaler is None:
                optimizer.step()
            else:
                scaler.step(optimizer)
                scaler.update()
            optimizer.zero_grad()
            if after:
                balancer.after_step(lambda batch=batch: net(**batch))
    return net, balancer


# ---------------------------------------------------------------------- Lightning


class Lit(MultiTaskModule, pl.LightningModule):
    """The network as a LightningModule."""

    def __init__(self, spec="nash-mtl", *, manual=False, optimizers=1):
        super().__init__()
        self.net, self.balancer = Net(), accord.make(spec, TASKS)
        self.automatic_optimization = not manual
        self.optimizers_wanted = optimizers
        self.balances = []

    def training_step(self, batch, batch_idx):
        options = options_of(self.balancer, self.net, batch)
        loss = self.balance(self.net(**batch), shared=self.net.trunk, **options)
        if self.automatic_optimization:
            return loss
        optimizers = self.optimizers()
        for optimizer in optimizers if isinstance(optimizers, list) else [optimizers]:
            optimizer.zero_grad()
        self.manual_backward(loss)
        for optimizer in optimizers if isinstance(optimizers, list) else [optimizers]:
            optimizer.step()
        return None

    def on_after_backward(self):
        super().on_after_backward()
        self.balances.append(self.last_balance)

    def configure_optimizers(self):
        if self.optimizers_wanted == 1:
            return optimizer_of(self.parameters())
        return [optimizer_of(self.net.trunk.parameters()), optimizer_of(self.net.heads.parameters())]


@contextlib.contextmanager
def quiet():
    """Frameworks warn of workers and devices; what accord warns of stays an error."""
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", module=r"(pytorch_lightning|lightning_fabric|accelerate|transformers)(\..*)?")
        warnings.filterwarnings("ignore", message=".*isinstance.treespec, LeafSpec.*", category=FutureWarning)
        yield


def fit(module, *, ckpt_path=None, batches=None, **options):
    settings = {
        "accelerator": "cpu",
        "devices": 1,
        "max_epochs": 1,
        "logger": False,
        "enable_checkpointing": False,
        "enable_progress_bar": False,
        "enable_model_summary": False,
        "use_distributed_sampler": False,
    }
    with quiet():
        trainer = pl.Trainer(**{**settings, **options})
        trainer.fit(module, loader() if batches is None else batches, ckpt_path=ckpt_path)
    return trainer


# ---------------------------------------------------------------------- Accelerate


def forget():
    """What Accelerate keeps from one accelerator to the next, the Trainer's included."""
    accelerate.state.AcceleratorState._reset_state(True)
    accelerate.state.GradientState._reset_state()


def fresh(**options):
    """An accelerator that knows nothing of those before."""
    forget()
    return Accelerator(cpu=True, **options)


def accelerated(spec="nash-mtl", *, batches=None, after=None, **options):
    """A loop as Accelerate's guide has it; the network, the balancer, the accelerator, and the balances."""
    with quiet():
        accelerator = fresh(**options)
        net, balancer = Net(), accord.make(spec, TASKS)
        model, optimizer = accelerator.prepare(net, optimizer_of([*net.parameters(), *balancer.parameters()]))
        balances = []
        for batch in loader() if batches is None else batches:
            with accelerator.accumulate(model):
                given = options_of(balancer, model, batch)
                losses = model(**batch)
                balances.append(backward(accelerator, balancer, losses, shared=net.trunk, heads=net.heads, **given))
                optimizer.step()
                optimizer.zero_grad()
    return net, balancer, accelerator, balances


# ---------------------------------------------------------------------- transformers


class Output(nn.Module):
    """The network with the output that the Trainer takes."""

    def __init__(self):
        super().__init__()
        self.net = Net()

    def forward(self, x, y):
        return {"losses": self.net(x, y), "predicted": self.net.trunk(x)}


class Balanced(MultiTaskTrainer, transformers.Trainer):
    """As the guide has it."""


def trainer_of(folder, spec="nash-mtl", *, model=None, trainer=Balanced, steps=STEPS, arguments=None, **options):
    """A Trainer that makes the same steps as ``raw``."""
    forget()
    settings = {
        "output_dir": str(folder),
        "per_device_train_batch_size": BATCH,
        "num_train_epochs": 1,
        "learning_rate": 0.1,
        "lr_scheduler_type": "constant",
        "optim": "sgd",
        "weight_decay": 0.0,
        "max_grad_norm": 0.0,
        "logging_steps": 1,
        "save_strategy": "no",
        "report_to": "none",
        "disable_tqdm": True,
        "use_cpu": True,
        "train_sampling_strategy": "sequential",
        "label_names": ["y"],
        "dataloader_pin_memory": False,
    }
    with quiet():
        balancer = accord.make(spec, TASKS) if isinstance(spec, str) else spec
        args = transformers.TrainingArguments(**{**settings, **(arguments or {})})
        options = {"balancer": balancer, "shared": "net.trunk", **options}
        return trainer(Output() if model is None else model, args, train_dataset=Samples(steps), **options)


def train(trainer, **options):
    with quiet():
        return trainer.train(**options)


# ---------------------------------------------------------------------- several processes


@contextlib.contextmanager
def launched():
    """The environment of ``torchrun``, by which frameworks know of the group that is there."""
    rank, size = torch.distributed.get_rank(), torch.distributed.get_world_size()
    given = {"RANK": rank, "LOCAL_RANK": rank, "WORLD_SIZE": size, "LOCAL_WORLD_SIZE": size, "GROUP_RANK": 0}
    given |= {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": 29500, "TORCHELASTIC_RUN_ID": "tests"}
    before = dict(os.environ)
    os.environ.update({name: str(value) for name, value in given.items()})
    try:
        yield rank, size
    finally:
        os.environ.clear()
        os.environ.update(before)


def parts(rank, size):
    """This process's part of each batch."""
    batches = [{name: tensor.chunk(size)[rank] for name, tensor in batch.items()} for batch in loader()]
    return torch.utils.data.DataLoader(batches, batch_size=None)


def on_processes(framework, spec, **options):
    """How far a part of each batch on each process is from the loop written out on one, with all of them."""
    with launched() as (rank, size):
        if framework == "lightning":
            module = Lit(spec, manual=options.pop("manual", False))
            fit(module, devices=size, batches=parts(rank, size), **options)
            net = module.net
        elif framework == "accelerate":
            net = accelerated(spec, batches=parts(rank, size), **options)[0]
        else:
            arguments = {"per_device_train_batch_size": BATCH // size, **options.pop("arguments", {})}
            trainer = trainer_of(options.pop("folder"), spec, arguments=arguments)
            train(trainer)
            net = trainer.model.net
    wanted, _ = one_process(spec)
    return {"apart": apart(net, wanted), "moved": apart(net, Net()), "parameters": flat(net)}


def one_process(spec):
    """``raw`` where a group is there: nothing is exchanged."""
    net, balancer = Net(), accord.make(spec, TASKS)
    optimizer = optimizer_of([*net.parameters(), *balancer.parameters()])
    for batch in loader():
        balancer.backward(net(**batch), net.trunk, reduce=Local(), **options_of(balancer, net, batch))
        optimizer.step()
        optimizer.zero_grad()
    return net, balancer
