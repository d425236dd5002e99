"""This script pulls objects by libcurl in one process: the reference for what the library can do.

usage: pull.py LIST URL TRANSFERS, in the folder where the objects go.

LIST has a line with the name and the MD5 of each object below URL.  Each is hashed as it comes,
written to a temporary file and renamed.  There are no limits, no tries and no syncs.
"""

import hashlib
import os
import sys
from pathlib import Path

import pycurl

BUFFER = 512 << 10


class Transfer:
    """A transfer pulls one object after the other."""

    def __init__(self, url: str) -> None:
        self.curl = pycurl.Curl()
        self.curl.setopt(pycurl.NOSIGNAL, 1)
        self.curl.setopt(pycurl.BUFFERSIZE, BUFFER)
        self.curl.setopt(pycurl.FAILONERROR, 1)
        self.curl.setopt(pycurl.WRITEFUNCTION, self._write)
        self._url = url

    def begin(self, name: str, md5: str) -> None:
        self._name, self._md5 = name, md5
        self._digest = hashlib.md5(usedforsecurity=False)
        self._file = os.open(f"{name}.part", os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o644)
        self.curl.setopt(pycurl.URL, self._url + name)

    def _write(self, data: bytes) -> None:
        self._digest.update(data)
        os.write(self._file, data)

    def end(self) -> None:
        os.close(self._file)
        assert self._digest.hexdigest() == self._md5, f"{self._name} is damaged"
        os.rename(f"{self._name}.part", self._name)


def pull(wanted: list[list[str]], url: str, transfers: int) -> None:
    multi = pycurl.CurlMulti()
    multi.setopt(pycurl.M_MAXCONNECTS, transfers)
    busy: dict[pycurl.Curl, Transfer] = {}

    def begin(transfer: Transfer) -> None:
        if wanted:
            transfer.begin(*wanted.pop())
            busy[transfer.curl] = transfer
            multi.add_handle(transfer.curl)

    for _ in range(transfers):
        begin(Transfer(url))
    while busy:
        multi.perform()
        more = 1
        while more:
            more, ended, failed = multi.info_read()
            if failed:
                sys.exit(f"a transfer failed: {failed[0][2]}")
            for curl in ended:
                multi.remove_handle(curl)
                transfer = busy.pop(curl)
                transfer.end()
                begin(transfer)
        if busy:
            multi.select(1.0)


def main() -> None:
    names, url, transfers = sys.argv[1:]
    pull([line.split() for line in Path(names).read_text().splitlines()], url, int(transfers))


if __name__ == "__main__":
    main()
