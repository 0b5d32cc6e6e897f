"""Why a model decides so: one method, one file; maps in, maps scored."""
