"""The LightningDataModules; how they read, decode and batch is in the folders below.

Names for configurations (``class_path: datamodules.AVQADataModule``) that stay when files move.
"""

from runtime.short_names import short_names

__getattr__, __dir__ = short_names(
    __name__,
    {
        "AVQADataModule": "avqa",
        "AVQAVideoDataModule": "avqa_video",
        "AlignmentDataModule": "alignment",
        "ClipFramesDataModule": "clip_frames",
        "MMAUDataModule": "mmau",
        "MultipleChoiceDataModule": "multiple_choice",
        "MusicAVQADataModule": "music_avqa",
        "TraceClipsDataModule": "trace_clips",
        "TracesDataModule": "traces",
    },
)
