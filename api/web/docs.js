// Every route of /openapi.json, to read and to try.
window.SwaggerUIBundle({ url: "/openapi.json", dom_id: "#docs", deepLinking: true, docExpansion: "list" });
