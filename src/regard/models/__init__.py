"""Models: one paper, one file; `registry` has them by name."""

from regard.models import resnet as resnet
from regard.models import vit as vit
from regard.models.counting import count_gmacs as count_gmacs
from regard.models.counting import count_parameters as count_parameters
from regard.models.registry import Features as Features
from regard.models.registry import ModelSpec as ModelSpec
from regard.models.registry import create_model as create_model
from regard.models.registry import head_name as head_name
from regard.models.registry import list_models as list_models
from regard.models.registry import model_spec as model_spec
from regard.models.registry import register_model as register_model
from regard.models.registry import reset_head as reset_head
from regard.models.registry import timm_reference as timm_reference

for _spec in (*vit.SPECS, *resnet.SPECS):
    register_model(_spec)
