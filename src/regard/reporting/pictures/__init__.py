"""Figures that leave the report: one measurement, one file; drawn by matplotlib, captions in three languages."""

from regard.reporting.pictures.picture import LANGUAGES as LANGUAGES
from regard.reporting.pictures.picture import Language as Language
from regard.reporting.pictures.picture import Picture as Picture
