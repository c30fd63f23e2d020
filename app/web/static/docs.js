// The reference page: shows /openapi.json by the vendored viewer, which asks no other host.
"use strict";

// The `type` of a problem is an address below /docs; its codes have a page of their own.
if (location.hash.startsWith("#error-")) {
  location.replace("/docs/errors" + location.hash);
} else {
  Scalar.createApiReference("#reference", {
    url: "/openapi.json",
    theme: "default",
    favicon: "/static/favicon.svg",
    withDefaultFonts: false,
    telemetry: false,
    persistAuth: false,
    hideClientButton: true,
    showDeveloperTools: "never",
    agent: { disabled: true },
    mcp: { disabled: true },
    documentDownloadType: "json",
    defaultOpenFirstTag: true,
    orderSchemaPropertiesBy: "preserve",
    operationTitleSource: "summary",
    authentication: { preferredSecurityScheme: "key" },
    defaultHttpClient: { targetKey: "shell", clientKey: "curl" },
    hiddenClients: {
      c: true, clojure: true, csharp: true, dart: true, fsharp: true, go: true, http: true, java: true,
      kotlin: true, objc: true, ocaml: true, php: true, powershell: true, r: true, ruby: true, rust: true, swift: true,
      js: ["axios", "jquery", "ofetch", "xhr"], node: true,
      python: ["aiohttp", "httpx_async", "httpx_sync", "python3"], shell: ["httpie", "wget"],
    },
  });
}
