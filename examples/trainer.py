"""A small text model with two tasks in the Trainer of transformers, made from its configuration: nothing is downloaded.

python examples/trainer.py                    # needs accord[transformers]
python examples/trainer.py --method cagrad
torchrun --nproc-per-node 2 examples/trainer.py

The texts are random words. One task says whether the first of them is rare, the other tags each word that stands
after a rare one. In training a tenth of the labels is wrong.
"""

import argparse
import tempfile

import torch
from torch import Tensor, nn
from transformers import BertConfig, BertModel, BertPreTrainedModel, PrinterCallback, Trainer, TrainingArguments
from transformers.utils import logging

import accord
from accord.integrations.transformers import MultiTaskTrainer

WORDS, LENGTH = 60, 12


class Tagger(BertPreTrainedModel):
    """An encoder that two tasks share; its output has one loss a task."""

    def __init__(self, config: BertConfig) -> None:
        super().__init__(config)
        self.encoder = BertModel(config, add_pooling_layer=False)
        self.topic, self.tags = nn.Linear(config.hidden_size, 2), nn.Linear(config.hidden_size, 2)
        self.post_init()

    def forward(self, input_ids: Tensor, topic: Tensor, tags: Tensor) -> dict[str, object]:
        """Tokens (B, L), labels (B,) and (B, L), to losses by task and predictions."""
        states = self.encoder(input_ids).last_hidden_state  # (B, L, H)
        of_text, of_words = self.topic(states[:, 0]), self.tags(states)
        losses = {
            "topic": nn.functional.cross_entropy(of_text, topic),
            "tags": nn.functional.cross_entropy(of_words.flatten(0, 1), tags.flatten()),
        }
        return {"losses": losses, "of_text": of_text, "of_words": of_words}


class BalancedTrainer(MultiTaskTrainer, Trainer):
    """The Trainer, with a balancer."""


class Texts(torch.utils.data.Dataset):
    """Sequences of words, drawn anew from a seed, and their labels, this share of which is wrong."""

    def __init__(self, samples: int, seed: int, wrong: float = 0.0) -> None:
        generator = torch.Generator().manual_seed(seed)
        self.words = torch.randint(0, WORDS, (samples, LENGTH), generator=generator)
        rare = self.words >= WORDS // 2
        labels = torch.cat([rare[:, :1], rare.roll(1, dims=1)], 1)  # (N, 1 + L): of the text, and of its words
        self.labels = (labels ^ (torch.rand(labels.shape, generator=generator) < wrong)).long()

    def __len__(self) -> int:
        return len(self.words)

    def __getitem__(self, i: int) -> dict[str, Tensor]:
        return {"input_ids": self.words[i], "topic": self.labels[i, 0], "tags": self.labels[i, 1:]}


def accuracy(found: object) -> dict[str, float]:
    """The share of right answers of each task."""
    (of_text, of_words), (topic, tags) = found.predictions, found.label_ids
    return {"topic": float((of_text.argmax(-1) == topic).mean()), "tags": float((of_words.argmax(-1) == tags).mean())}


def main(method: str, epochs: int, folder: str) -> None:
    """Train, evaluate, and show what was logged."""
    logging.set_verbosity_error()
    logging.disable_progress_bar()
    config = BertConfig(
        vocab_size=WORDS,
        hidden_size=32,
        num_hidden_layers=2,
        num_attention_heads=2,
        intermediate_size=64,
        max_position_embeddings=LENGTH,
    )
    torch.manual_seed(0)
    arguments = TrainingArguments(
        folder,
        num_train_epochs=epochs,
        per_device_train_batch_size=64,
        learning_rate=3e-3,
        label_names=["topic", "tags"],
        logging_strategy="epoch",
        save_strategy="epoch",
        save_total_limit=1,
        report_to="none",
        disable_tqdm=True,
        use_cpu=not torch.cuda.is_available(),  # or processes without GPUs would each train alone
        dataloader_pin_memory=torch.cuda.is_available(),
    )
    trainer = BalancedTrainer(
        Tagger(config),
        arguments,
        train_dataset=Texts(2048, seed=1, wrong=0.1),
        eval_dataset=Texts(512, seed=2),
        compute_metrics=accuracy,
        balancer=accord.make(method, tasks=["topic", "tags"]),
        shared="encoder",
    )
    trainer.remove_callback(PrinterCallback)
    trainer.train()
    for logs in trainer.state.log_history:
        if "loss" in logs and trainer.is_world_process_zero():
            told = (
                f"{t}: loss {logs[f'loss/{t}']:.4f} weight {logs[f'weight/{t}']:.4f}" for t in trainer.balancer.tasks
            )
            print(f"epoch {logs['epoch']:2.0f}  " + "  ".join(told))
    found = trainer.evaluate()
    if trainer.is_world_process_zero():
        print(f"right: topic {found['eval_topic']:.3f}, tags {found['eval_tags']:.3f}; {trainer.balancer.steps} steps")


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--method", default="nash-mtl")
    parser.add_argument("--epochs", type=int, default=6)
    given = parser.parse_args()
    with tempfile.TemporaryDirectory() as checkpoints:
        main(given.method, given.epochs, checkpoints)
