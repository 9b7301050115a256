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
    "REGIONS": "template",
    "PlantedCase": "phantoms",
    "planted_case": "phantoms",
    "TRAINING_SEED": "planted",
    "PlantedCrop": "planted",
    "planted_crops": "planted",
    "training_masks": "planted",
    "write_planted_set": "planted",
    "LUNG_REGIONS": "lungs",
    "lung_doubts": "lungs",
    "lung_field_cases": "lungs",
    "lung_regions": "lungs",
    "lung_sides": "lungs",
    "mri_cases": "mri",
    "one_source": "mri",
    "CaseDataset": "cases",
    "collate_cases": "cases",
    "saved_meta": "cases",
    "planted_in_real": "real",
    "siim_cases": "siim",
    "rsna_cases": "rsna",
    "class_folder_cases": "kermany",
    "skin_cases": "skin",
    "skin_source": "skin_sources",
    "training_layer_masks": "skin_sources",
    "film_list": "splits",
    "sound_cases": "listing",
    "assign_splits": "splits",
    "assign_subjects": "splits",
    "check_leaks": "splits",
    "patient_folds": "folds",
    "patient_split": "folds",
    "film_transforms": "film_chain",
    "FitFilmd": "film_chain",
    "film_part": "film_sources",
    "film_source": "film_sources",
    "film_table_cases": "film_sources",
    "mask_files": "film_sources",
    "training_film_masks": "film_sources",
    "LoadFilm": "films",
    "LoadFilmd": "films",
    "find_films": "films",
    "DrawRled": "film_truth",
    "DrawBoxesd": "film_truth",
    "LoadMaskd": "film_truth",
    "LoadLayersd": "film_truth",
    "decode_rle": "rle",
    "encode_rle": "rle",
    "PlantedFilm": "thorax_film",
    "planted_film": "thorax_film",
    "planted_film_list": "planted_films",
    "write_planted_films": "planted_films",
    "PlantedSkin": "skin_phantom",
    "planted_scan": "skin_phantom",
    "planted_scan_list": "planted_skin",
    "write_planted_skin": "planted_skin",
    "network_mri_transforms": "preprocessing",
    "seed_mri_transforms": "preprocessing",
}

__all__ = list(_HOME)


def __getattr__(name: str) -> Any:
    if name not in _HOME:
        raise AttributeError(f"module 'medsal.data' has no attribute '{name}'; it has {', '.join(sorted(_HOME))}")
    return getattr(import_module(f"{__name__}.{_HOME[name]}"), name)
