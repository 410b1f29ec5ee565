"""Data sets as uint8 arrays, decoded once; the seeded split; whole batches by index; augmentation. Knows no models."""

from training.data.augment import augmentation
from training.data.batches import batch_loader, data_loaders
from training.data.folder import decode_image
from training.data.sets import ImageSet, TrainData, channel_statistics, split_train
from training.data.sources import cifar_is_available, load_data, load_official_train, load_test
from training.errors import DataError
