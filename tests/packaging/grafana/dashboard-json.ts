// The form of dashboard.json, from the types that Grafana publishes in the npm package @grafana/schema: those of a dashboard,
// and those of the options of each panel type that the dashboard uses.
import type { Dashboard, FieldConfigSource, Panel } from "@grafana/schema";
import type { Options as StatOptions } from "@grafana/schema/dist/esm/raw/composable/stat/panelcfg/x/StatPanelCfg_types.gen";
import type {
    FieldConfig as SeriesConfig,
    Options as SeriesOptions,
} from "@grafana/schema/dist/esm/raw/composable/timeseries/panelcfg/x/TimeSeriesPanelCfg_types.gen";

// In JSON, a value of a string enumeration is its text.
type Json<T> = T extends string ? `${T}` : T extends object ? { [Key in keyof T]: Json<T[Key]> } : T;

type PanelOf<Type, Options, Config> = Json<Omit<Panel, "type" | "options" | "fieldConfig">> & {
    type: Type;
    options: Json<Options>;
    fieldConfig: Json<Omit<FieldConfigSource, "defaults">> & {
        defaults: Json<Omit<FieldConfigSource["defaults"], "custom">> & { custom?: Json<Config> };
    };
};

export type DashboardJson = Json<Omit<Dashboard, "panels">> & {
    panels: (PanelOf<"stat", StatOptions, never> | PanelOf<"timeseries", SeriesOptions, SeriesConfig>)[];
};
