"""Models: one paper, one file; `registry` has them by name."""

from regard.models import alexnet as alexnet
from regard.models import botnet as botnet
from regard.models import clip as clip
from regard.models import convnext as convnext
from regard.models import convolutional_sequence as convolutional_sequence
from regard.models import deeplab as deeplab
from regard.models import deit as deit
from regard.models import dinov2 as dinov2
from regard.models import googlenet as googlenet
from regard.models import hybrid as hybrid
from regard.models import inception as inception
from regard.models import lrnet as lrnet
from regard.models import nonlocal_resnet as nonlocal_resnet
from regard.models import pixel_gpt as pixel_gpt
from regard.models import pixels as pixels
from regard.models import recurrent as recurrent
from regard.models import resnet as resnet
from regard.models import sam as sam
from regard.models import swin as swin
from regard.models import t2t as t2t
from regard.models import transformer as transformer
from regard.models import vgg as vgg
from regard.models import vit as vit
from regard.models.counting import count_gmacs as count_gmacs
from regard.models.counting import count_parameters as count_parameters
from regard.models.registry import Features as Features
from regard.models.registry import Heads as Heads
from regard.models.registry import ModelSpec as ModelSpec
from regard.models.registry import create_model as create_model
from regard.models.registry import features_method as features_method
from regard.models.registry import features_of as features_of
from regard.models.registry import head_names as head_names
from regard.models.registry import list_models as list_models
from regard.models.registry import model_spec as model_spec
from regard.models.registry import register_model as register_model
from regard.models.registry import reset_head as reset_head
from regard.models.registry import timm_reference as timm_reference

for _family in (
    alexnet,
    botnet,
    clip,
    convnext,
    convolutional_sequence,
    deeplab,
    deit,
    dinov2,
    googlenet,
    hybrid,
    inception,
    lrnet,
    nonlocal_resnet,
    pixel_gpt,
    pixels,
    recurrent,
    resnet,
    sam,
    swin,
    t2t,
    transformer,
    vgg,
    vit,
):
    for _spec in _family.SPECS:
        register_model(_spec)
