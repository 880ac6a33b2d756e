"""Small ROS bags for tests, written by rosbags itself."""

from collections.abc import Sequence
from io import BytesIO
from pathlib import Path

import numpy as np
from PIL import Image

RAW, COMPRESSED = "sensor_msgs/msg/Image", "sensor_msgs/msg/CompressedImage"
START, PERIOD = 5_000_000_000, 100_000_000  # ns


def write_bag(path: Path, topics: dict[str, Sequence[tuple[int, str, np.ndarray]]]) -> Path:
    """A bag of images: ROS 1 for ``.bag``, else a ROS 2 folder, of MCAP where its name says so.

    Args:
        topics: for each its messages: time in ns, encoding (``png`` for a compressed image) and pixels.
    """
    from rosbags.rosbag1 import Writer as Writer1
    from rosbags.rosbag2 import StoragePlugin, Writer
    from rosbags.typesys import Stores, get_typestore

    ros1 = path.suffix == ".bag"
    store = get_typestore(Stores.ROS1_NOETIC if ros1 else Stores.ROS2_HUMBLE)
    plugin = StoragePlugin.MCAP if "mcap" in path.name else StoragePlugin.SQLITE3
    with Writer1(path) if ros1 else Writer(path, version=9, storage_plugin=plugin) as writer:
        rows = []
        for topic, messages in topics.items():
            kind = COMPRESSED if messages[0][1].endswith(("png", "jpeg")) else RAW
            connection = writer.add_connection(topic, kind, typestore=store)
            rows += [(time, connection, kind, encoding, pixels) for time, encoding, pixels in messages]
        for time, connection, kind, encoding, pixels in sorted(rows, key=lambda row: row[0]):
            message = _message(store.types, ros1, kind, time, encoding, pixels)
            data = store.serialize_ros1(message, kind) if ros1 else store.serialize_cdr(message, kind)
            writer.write(connection, time, data)
    return path


def _message(types, ros1, kind, time, encoding, pixels):
    stamp = types["builtin_interfaces/msg/Time"](sec=time // 10**9, nanosec=time % 10**9)
    sequence = {"seq": 0} if ros1 else {}
    header = types["std_msgs/msg/Header"](**sequence, stamp=stamp, frame_id="camera")
    if kind == COMPRESSED:
        file = BytesIO()
        Image.fromarray(pixels).save(file, format="PNG")
        prefix = bytes(12) if "compressedDepth" in encoding else b""
        return types[kind](header=header, format=encoding, data=np.frombuffer(prefix + file.getvalue(), np.uint8))
    rows = np.ascontiguousarray(pixels).reshape(pixels.shape[0], -1).view(np.uint8)
    rows = np.pad(rows, ((0, 0), (0, 8)))  # drivers pad rows
    height, width = pixels.shape[:2]
    return types[kind](
        header=header,
        height=height,
        width=width,
        encoding=encoding,
        is_bigendian=int(pixels.dtype.byteorder == ">"),
        step=rows.shape[1],
        data=rows.ravel(),
    )


def write_infos(path: Path, rig, sides=("left", "right")) -> Path:
    """A bag with the camera_info of a rig: ROS 1 for ``.bag``, else a ROS 2 folder."""
    from rosbags.rosbag1 import Writer as Writer1
    from rosbags.rosbag2 import StoragePlugin, Writer
    from rosbags.typesys import Stores, get_typestore

    ros1 = path.suffix == ".bag"
    store = get_typestore(Stores.ROS1_NOETIC if ros1 else Stores.ROS2_HUMBLE)
    plugin = StoragePlugin.MCAP if "mcap" in path.name else StoragePlugin.SQLITE3
    kind, types = "sensor_msgs/msg/CameraInfo", store.types
    r1, r2, p1, p2 = rig.rectifying()
    with Writer1(path) if ros1 else Writer(path, version=9, storage_plugin=plugin) as writer:
        for side, camera, r, p in (("left", rig.left, r1, p1), ("right", rig.right, r2, p2)):
            if side not in sides:
                continue
            connection = writer.add_connection(f"/stereo/{side}/camera_info", kind, typestore=store)
            stamp = types["builtin_interfaces/msg/Time"](sec=5, nanosec=0)
            header = types["std_msgs/msg/Header"](**({"seq": 0} if ros1 else {}), stamp=stamp, frame_id=side)
            roi = types["sensor_msgs/msg/RegionOfInterest"](x_offset=0, y_offset=0, height=0, width=0, do_rectify=False)
            values = {"d": camera.distortion, "k": camera.K.ravel(), "r": r.ravel(), "p": p.ravel()}
            values = {name.upper() if ros1 else name: np.array(value) for name, value in values.items()}
            message = types[kind](
                header=header, height=rig.height, width=rig.width, distortion_model="plumb_bob", **values,
                binning_x=0, binning_y=0, roi=roi,
            )  # fmt: skip
            data = store.serialize_ros1(message, kind) if ros1 else store.serialize_cdr(message, kind)
            writer.write(connection, START, data)
    return path
