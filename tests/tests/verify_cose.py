"""Verifies a COSE_Sign1 file with a COSE library that is not ours, and that no flipped bit passes.

    python verify_cose.py FILE ED25519_PUBLIC_KEY_HEX

Exit 0 if the file verifies and each of its bits, flipped alone, makes it fail.
"""

import importlib.util
import sys


def with_pycose(public):
    from pycose.algorithms import EdDSA
    from pycose.headers import Algorithm
    from pycose.keys import OKPKey
    from pycose.keys.curves import Ed25519
    from pycose.messages import CoseMessage, Sign1Message

    key = OKPKey(crv=Ed25519, x=public, optional_params={})

    def verify(data):
        message = CoseMessage.decode(data)
        # Another kind of message, headers that are no maps, another algorithm: not the signature we were shown.
        if type(message) is not Sign1Message or message.phdr.get(Algorithm) is not EdDSA:
            return False
        message.key = key
        return message.verify_signature()

    return "pycose", verify


def with_cwt(public):
    from cwt import COSE, COSEKey, COSEMessage

    key = COSEKey.new({1: 1, 3: -8, -1: 6, -2: public})

    def verify(data):
        message = COSEMessage.loads(data)
        # Another kind of message is not the signature that we were shown.
        if message.type.name != "SIGN1":
            return False
        COSE.new().decode(data, key)
        return True

    return "cwt", verify


def refused(verify, data):
    try:
        return not verify(data)
    except Exception:  # however the library says no
        return True


def main():
    with open(sys.argv[1], "rb") as file:
        data = file.read()
    public = bytes.fromhex(sys.argv[2])
    library = with_pycose if importlib.util.find_spec("pycose") else with_cwt
    name, verify = library(public)
    if not verify(data):
        sys.exit(f"{name} does not verify the file as it is")
    for bit in range(len(data) * 8):
        flipped = bytearray(data)
        flipped[bit // 8] ^= 1 << bit % 8
        if not refused(verify, bytes(flipped)):
            sys.exit(f"{name} still verifies it with bit {bit % 8} of byte {bit // 8} flipped")
    print(f"{name} verifies {len(data)} bytes and refuses each of {len(data) * 8} flipped bits")


main()
