"use strict";

const place = document.getElementById("document");

SwaggerUIBundle({
  url: place.dataset.url,
  domNode: place,
  deepLinking: true,
  validatorUrl: null, // it would ask a server elsewhere
  presets: [SwaggerUIBundle.presets.apis],
  layout: "BaseLayout",
});
