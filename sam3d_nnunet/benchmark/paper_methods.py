"""The methods of the paper's tables, by its names, and those that an honest comparison needs beside them."""

PAPER_METHODS: tuple[dict[str, str], ...] = (
    {"name": "nnU-Net", "trainer": "nnUNetTrainer", "plans": "nnUNetPlans"},
    {"name": "nnU-Net, ResEnc-L", "trainer": "nnUNetTrainer", "plans": "nnUNetResEncUNetLPlans"},
    {"name": "nnU-Net, same plan", "trainer": "nnUNetTrainer"},
    {"name": "nnU-Net, same plan and length", "trainer": "nnUNetTrainer_planned"},
    {"name": "TransBTS", "trainer": "TransBTSTrainer"},
    {"name": "nnFormer", "trainer": "NNFormerTrainer"},
    {"name": "Swin-UNETR", "trainer": "SwinUNETRTrainer"},
    {"name": "UNETR++", "trainer": "UNETRPPTrainer"},
    {"name": "3D UX-Net", "trainer": "UXNet3DTrainer"},
    {"name": "MedNeXt-L", "trainer": "MedNeXtTrainer"},
    {"name": "Full fine-tuning", "trainer": "SAM3DFullFineTuneTrainer"},
    {"name": "Adapter (Houlsby 2019)", "trainer": "SAM3DHoulsbyAdapterTrainer"},
    {"name": "Pro-tuning", "trainer": "SAM3DProTuningTrainer"},
    {"name": "ST-Adapter", "trainer": "SAM3DSTAdapterTrainer"},
    {"name": "Med-tuning", "trainer": "SAM3DMedTuningTrainer"},
    {"name": "3DSAM-adapter, no prompts", "trainer": "SAM3DAdapterAutoTrainer"},
    {"name": "SAM-B", "sam2d": "vit_b"},
    {"name": "prompted nnU-Net", "trainer": "PromptedUNetTrainer"},
    {"name": "prompted nnU-Net, ResEnc", "trainer": "PromptedResEncUNetTrainer"},
    {"name": "3DSAM-adapter, as in the paper", "trainer": "SAM3DAdapterTrainer_paper"},
    {"name": "3DSAM-adapter", "trainer": "SAM3DAdapterTrainer"},
)
"""As a recipe would give them."""
