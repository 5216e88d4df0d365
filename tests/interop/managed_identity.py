"""Prints the token that azure-identity gets for a resource. Its environment names the endpoint.

Arguments: the resource, and optionally the client id of a user-assigned identity.
"""

import sys

from azure.identity import ManagedIdentityCredential

resource, *client_id = sys.argv[1:]
credential = ManagedIdentityCredential(client_id=client_id[0] if client_id else None)
print(credential.get_token(f"{resource}/.default").token)
