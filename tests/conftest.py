"""One torch thread, so that timings of the suite do not depend on the machine; no deadlines for random inputs."""

import torch
from hypothesis import settings

torch.set_num_threads(1)
settings.register_profile("suite", deadline=None)
settings.load_profile("suite")
