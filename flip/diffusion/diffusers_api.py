"""diffusers, whose functions carry no types; imported where it is needed, since that takes seconds."""

from __future__ import annotations

import importlib
from typing import Any

import diffusers as _diffusers
import diffusers.utils.logging as _diffusers_logging
import transformers.utils.logging as _transformers_logging

#: The package, with calls that a type checker lets pass.
diffusers: Any = _diffusers

#: Its converters from other namings of weights.
convert: Any = importlib.import_module("diffusers.loaders.single_file_utils")

#: Its averaging of weights.
training_utils: Any = importlib.import_module("diffusers.training_utils")

# Progress bars and notes of the libraries are not flip's: stderr carries flip's own.
for _logging in (_diffusers_logging, _transformers_logging):
    _logging.set_verbosity_error()
    _logging.disable_progress_bar()
