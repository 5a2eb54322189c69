"""The models, objectives and scores: pure functions and the LightningModules that use them."""
