"""Datasets: readers, records in Parquet files, codes, conversations, and DICOM output."""

from .._lazy import lazy_exports

__getattr__, __dir__, __all__ = lazy_exports(
    __name__,
    {
        ".codes": ("check_tokenizer", "load_codes", "tokenizer_fingerprint"),
        ".conversations": (
            "image_conversation",
            "label_report",
            "question_answers",
            "report_conversation",
            "text_conversation",
            "vqa_conversation",
        ),
        ".dicom_output": ("image_to_dicom", "report_to_dicom"),
        ".mixture": ("STAGE_1", "STAGE_2", "TaskMixture", "stage_mixture"),
        ".readers.image_folder": ("read_image_folder",),
        ".readers.mimic_cxr": ("read_mimic_cxr",),
        ".readers.openi": ("read_openi",),
        ".readers.table": ("read_table",),
        ".readers.text": ("read_texts",),
        ".readers.vqa": ("read_vqa",),
        ".records": ("SkipReport", "StudyRecord"),
        ".store": ("assign_split", "load_records", "open_records", "select_records", "write_records"),
    },
)
