"""Sources of cases: MRI (tables, folders, BIDS), films of public studies, planted-truth sets made at run time.

A case is a dictionary: ``image`` (a path, after loading an image), ``label``, ``label_name``, ``case``, ``subject``,
``session``, and where truth is known ``lesion`` and ``regions``, or of films ``mask``, ``boxes``, ``layers``. What is
wrong with one case is under its ``fault``. Names are imported when they are first used.
"""

from __future__ import annotations

from importlib import import_module
from typing import Any

_HOME = {
    "Grid": "grids",
    "HEAD_GRID": "grids",
    "SEED_GRID": "grids",
    "TEMPORAL_GRID": "grids",
    "REGIONS": "phantoms.template",
    "PlantedCase": "phantoms.heads",
    "planted_case": "phantoms.heads",
    "TRAINING_SEED": "phantoms.head_set",
    "PlantedCrop": "phantoms.head_set",
    "planted_crops": "phantoms.head_set",
    "training_masks": "phantoms.head_set",
    "write_planted_set": "phantoms.head_set",
    "LUNG_REGIONS": "films.lungs",
    "lung_doubts": "films.lungs",
    "lung_field_cases": "films.lungs",
    "lung_regions": "films.lungs",
    "lung_sides": "films.lungs",
    "mri_cases": "mri",
    "one_source": "mri",
    "CaseDataset": "cases",
    "collate_cases": "cases",
    "saved_meta": "cases",
    "planted_in_real": "phantoms.real",
    "siim_cases": "films.siim",
    "rsna_cases": "films.rsna",
    "class_folder_cases": "films.kermany",
    "skin_cases": "films.skin",
    "skin_source": "films.skin_sources",
    "training_layer_masks": "films.skin_sources",
    "film_list": "films.splits",
    "sound_cases": "films.listing",
    "assign_splits": "films.splits",
    "assign_subjects": "films.splits",
    "check_leaks": "films.splits",
    "patient_folds": "films.folds",
    "patient_split": "films.folds",
    "film_transforms": "films.chain",
    "FitFilmd": "films.chain",
    "film_part": "films.sources",
    "film_source": "films.sources",
    "film_table_cases": "films.sources",
    "mask_files": "films.sources",
    "training_film_masks": "films.sources",
    "LoadFilm": "films.loading",
    "LoadFilmd": "films.loading",
    "find_films": "films.loading",
    "DrawRled": "films.truth",
    "DrawBoxesd": "films.truth",
    "LoadMaskd": "films.truth",
    "LoadLayersd": "films.truth",
    "decode_rle": "films.rle",
    "encode_rle": "films.rle",
    "PlantedFilm": "phantoms.thorax_film",
    "planted_film": "phantoms.thorax_film",
    "planted_film_list": "phantoms.film_set",
    "write_planted_films": "phantoms.film_set",
    "PlantedSkin": "phantoms.skin_scan",
    "planted_scan": "phantoms.skin_scan",
    "planted_scan_list": "phantoms.skin_set",
    "write_planted_skin": "phantoms.skin_set",
    "network_mri_transforms": "preprocessing",
    "seed_mri_transforms": "preprocessing",
}

__all__ = list(_HOME)


def __getattr__(name: str) -> Any:
    if name not in _HOME:
        raise AttributeError(f"module 'medsal.data' has no attribute '{name}'; it has {', '.join(sorted(_HOME))}")
    return getattr(import_module(f"{__name__}.{_HOME[name]}"), name)
