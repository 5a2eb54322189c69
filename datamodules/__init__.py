"""Records, batches and the LightningDataModules that read the datasets."""
