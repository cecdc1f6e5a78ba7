#!/usr/bin/env python3
"""Writes sigv4.json: requests and their signatures, made by others than this crate.

usage: sigv4.py FOLDER >sigv4.json

FOLDER is AWS's own test suite of the signature, as the crate aws-sigv4 carries it in aws-signing-test-suite/v4
(Apache-2.0); taken are the cases that this crate can send, to the path "/" without a query. The others are signed here by
botocore (PyPI, Apache-2.0).
"""
import datetime
import json
import pathlib
import sys

import botocore.auth
import botocore.awsrequest
import botocore.credentials

SUITE = [
    "get-header-key-duplicate", "get-header-value-trim", "get-vanilla", "get-vanilla-with-session-token",
    "post-header-key-case", "post-header-key-sort", "post-header-value-case", "post-sts-header-before", "post-vanilla",
    "post-x-www-form-urlencoded", "post-x-www-form-urlencoded-parameters",
]
FORM = "application/x-www-form-urlencoded; charset=utf-8"
KEYS = ("AKIDEXAMPLE", "wJalrXUtnFEMI/K7MDENG+bPxRfiCYEXAMPLEKEY")
OWN = [
    ("ec2", "us-east-1", None, "https://ec2.us-east-1.amazonaws.com/", FORM, "2026-11-21T10:00:00Z",
     "Action=DescribeInstances&Version=2016-11-15&Filter.1.Name=tag-key&Filter.1.Value.1=blueprint-hub", {}),
    ("ec2", "eu-central-1", "AQoDYXdzEPT//token+/==", "https://ec2.eu-central-1.amazonaws.com/", FORM, "2026-02-28T23:59:59Z",
     "Action=RunInstances&Version=2016-11-15&UserData=I2Nsb3VkLWNvbmZpZw%3D%3D&ClientToken=a", {}),
    ("ec2", "cn-north-1", None, "https://ec2.cn-north-1.amazonaws.com.cn/", FORM, "2028-02-29T00:00:00Z", "", {}),
    ("ssm", "us-west-2", None, "https://ssm.us-west-2.amazonaws.com/", "application/x-amz-json-1.1", "2026-01-01T00:00:01Z",
     '{"Name":"/aws/service/debian/release/13/latest/amd64"}', {"x-amz-target": "AmazonSSM.GetParameter"}),
    ("sts", "us-east-1", "t", "https://sts.us-east-1.amazonaws.com/", FORM, "2026-12-31T12:00:00Z",
     "Action=GetCallerIdentity&Version=2011-06-15", {}),
    ("ec2", "us-east-1", None, "http://127.0.0.1:5055/", FORM, "2026-11-21T10:00:00Z", "Action=StopInstances&name=\u00e4", {}),
]


def of_suite(folder, name):
    case = folder / name
    context = json.loads((case / "context.json").read_text())
    signed = (case / "header-signed-request.txt").read_text()
    head, _, body = signed.partition("\n\n")
    first, *lines = head.splitlines()
    headers = [line.split(":", 1) for line in lines]
    added = ("authorization", "x-amz-date", "x-amz-security-token")
    keys = context["credentials"]
    return {
        "name": name, "id": keys["access_key_id"], "secret": keys["secret_access_key"], "session": keys.get("token"),
        "region": context["region"], "service": context["service"], "at": context["timestamp"],
        "method": first.split()[0], "url": "https://example.amazonaws.com/", "body": body,
        "headers": [[key.lower(), value.strip()] for key, value in headers if key.lower() not in added],
        "authorization": next(value for key, value in headers if key == "Authorization"),
    }


def of_botocore(service, region, session, url, kind, at, body, more):
    now = datetime.datetime.strptime(at, "%Y-%m-%dT%H:%M:%SZ").replace(tzinfo=datetime.timezone.utc)
    botocore.auth.get_current_datetime = lambda *_: now
    request = botocore.awsrequest.AWSRequest("POST", url, headers={"content-type": kind, **more}, data=body.encode())
    credentials = botocore.credentials.Credentials(*KEYS, session)
    botocore.auth.SigV4Auth(credentials, service, region).add_auth(request)
    return {
        "name": f"botocore {service} {region} {at}", "id": KEYS[0], "secret": KEYS[1], "session": session,
        "region": region, "service": service, "at": at, "method": "POST", "url": url, "body": body,
        "headers": [["content-type", kind], *map(list, more.items())],
        "authorization": request.headers["Authorization"],
    }


def main():
    folder = pathlib.Path(sys.argv[1])
    rows = [of_suite(folder, name) for name in SUITE] + [of_botocore(*row) for row in OWN]
    print("[\n" + ",\n".join(json.dumps(row) for row in rows) + "\n]")


main()
