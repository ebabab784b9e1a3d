"""The one training loop: data, a model's objectives and a schedule in, the best averaged weights out."""

from anomgen.train.feed import Passes
from anomgen.train.plan import usual_noise
from anomgen.train.run import Callback, ProgressBar, Run, default_callbacks
from anomgen.train.trainer import Trainer

__all__ = ["Callback", "Passes", "ProgressBar", "Run", "Trainer", "default_callbacks", "usual_noise"]
